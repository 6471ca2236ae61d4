"""The page's plots; the shell that writes them is `results_page.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import modes
import quality_table
from compression_arms import Setting
from compression_table import sent, setting_of
from records import Record, current

from page.learning import losses_of, ratios
from page.section import Logs
from photon.report.figures import pyplot, save_figure

SIZE = {"figsize": (8, 5), "dpi": 100}


def draw(logs: Logs, folder: Path) -> None:
    """Write those that have something to show."""
    plain = [one for one in logs("compression") if setting_of(one) == Setting()]
    if plain:
        loss_against_bytes(plain, logs("gate"), folder / "loss-against-bytes.png")
    if logs("quality"):
        quality_table.plots(logs("quality"), folder)
    if logs("modes"):
        loss_of_modes(losses_of(logs("modes")), folder / "loss-of-not-waiting.png")
    if logs("memory"):
        planned_memory(current(logs("memory"), "case"), folder / "planned-memory.png")


def loss_against_bytes(
    records: Sequence[Record], baselines: Sequence[Record], target: Path
) -> Path | None:
    """A point for each run, a colour for each arm; training without a federation last."""
    figure, axes = pyplot().subplots(**SIZE)
    for arm in dict.fromkeys(one["arm"] for one in records):
        runs = [one for one in records if one["arm"] == arm and one["val_loss"] is not None]
        megabytes = [sent(one) / 1e6 for one in runs]
        axes.plot(megabytes, [one["val_loss"] for one in runs], "o", markersize=5, label=arm)
    losses = [one["val_loss"] for one in baselines
              if one["arm"] == "centralised" and "val_loss" in one]  # fmt: skip
    every_step = [records[0]["bytes_ddp"] / 1e6] * len(losses)
    axes.plot(every_step, losses, "ks", markersize=5, label="data-parallel (bf16 gradients)")
    axes.set_xscale("log")
    axes.set_xlabel("MB sent, both ways, all clients")
    axes.set_ylabel("validation loss")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="x-small")
    return save_figure(figure, target)


def loss_of_modes(losses: Mapping[tuple[str, int], float], target: Path) -> Path | None:
    """Points of the seeds, arm by arm, above the synchronous run."""
    figure, axes = pyplot().subplots(**SIZE)
    arms = [arm for arm in modes.ARMS if arm != modes.REFERENCE
            and any(arm == one for one, _ in losses)]  # fmt: skip
    for place, arm in enumerate(reversed(arms)):
        above = [100 * (ratio - 1) for ratio in ratios(losses, arm, modes.REFERENCE)]
        found = [one for one in above if math.isfinite(one)]
        axes.plot(found, [place] * len(found), "o", markersize=5)
    axes.set_yticks(range(len(arms)), list(reversed(arms)), fontsize="small")
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_xlabel("validation loss above the synchronous run, %")
    axes.grid(alpha=0.3)
    return save_figure(figure, target)


def planned_memory(records: Sequence[Record], target: Path) -> Path | None:
    """Each shape's plan against what it took, and the bar on both sides."""
    figure, axes = pyplot().subplots(**SIZE)
    measured = [one["measured_megabytes"] for one in records]
    axes.plot(measured, [one["planned_megabytes"] for one in records], "o")
    ends = [min(measured), max(measured)]
    for factor in (0.9, 1.0, 1.1):
        style = "-" if factor == 1.0 else ":"
        axes.plot(ends, [factor * end for end in ends], style, color="gray", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("MB measured")
    axes.set_ylabel("MB planned (dotted: 10 % off)")
    axes.grid(alpha=0.3, which="both")
    return save_figure(figure, target)
