"""What runs of `compression.py` come to: a table, and points for a plot. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression_arms import AVERAGED, Setting, reference_of

Record = Mapping[str, Any]
"""A finished run, as a line of the log has it."""


@dataclass(frozen=True, slots=True)
class Row:
    """An arm in a setting, over its seeds.

    Attributes:
        loss, spread: mean and half of the range of the final validation losses; infinite where a
            seed diverged.
        worse: least, mean and greatest loss over that of the same recipe, sent in bf16, with the
            same seed, less 1; empty without a common seed.
        beside: mean loss over that with averaged moments, sent in bf16, less 1.
        times: how many times fewer bytes than data-parallel training; the least of the seeds.
    """

    arm: str
    seeds: tuple[int, ...]
    loss: float
    spread: float
    worse: tuple[float, float, float] | tuple[()]
    beside: float | None
    times: float


def setting_of(record: Record) -> Setting:
    return Setting(record["model"], record["split"], record["local_steps"], record["rounds"])


def rows(records: Iterable[Record]) -> dict[Setting, list[Row]]:
    """Rows by setting, both in the order of their first run."""
    found: dict[Setting, dict[str, dict[int, Record]]] = {}
    for record in records:
        arms = found.setdefault(setting_of(record), {})
        arms.setdefault(record["arm"], {})[record["seed"]] = record
    return {
        setting: [_row(arm, runs, arms) for arm, runs in arms.items()]
        for setting, arms in found.items()
    }


def _row(arm: str, runs: Mapping[int, Record], arms: Mapping[str, Mapping[int, Record]]) -> Row:
    losses = [_loss(run) for run in runs.values()]
    mean = statistics.fmean(losses)
    worse = _worse(runs, arms.get(reference_of(arm), {}))
    beside = _worse(runs, arms.get(AVERAGED, {}))
    return Row(
        arm=arm,
        seeds=tuple(sorted(runs)),
        loss=mean,
        spread=(max(losses) - min(losses)) / 2 if math.isfinite(mean) else math.inf,
        worse=(min(worse), statistics.fmean(worse), max(worse)) if worse else (),
        beside=statistics.fmean(beside) if beside else None,
        times=min(run["bytes_ddp"] / sent(run) for run in runs.values()),
    )


def _worse(runs: Mapping[int, Record], others: Mapping[int, Record]) -> list[float]:
    """By common seed, but for others that diverged."""
    found = {seed: _loss(run) for seed, run in others.items() if run["val_loss"] is not None}
    return [_loss(run) / found[seed] - 1 for seed, run in runs.items() if seed in found]


def sent(run: Record) -> int:
    """Bytes in both directions."""
    return run["bytes_up"] + run["bytes_down"]


def _loss(run: Record) -> float:
    return math.inf if run["val_loss"] is None else run["val_loss"]


def table(records: Iterable[Record]) -> str:
    """Markdown, a table for each setting."""
    return "\n".join(_table(setting, found) for setting, found in rows(records).items())


def _table(setting: Setting, found: Sequence[Row]) -> str:
    head = [
        f"{setting.title[0].upper()}{setting.title[1:]}:",
        "",
        "| moments: up / down | seeds | validation loss | beside its recipe in bf16 | "
        "beside averaged moments in bf16 | less than data-parallel |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(_line, found), ""])


def _line(row: Row) -> str:
    loss = f"{row.loss:.3f} ± {row.spread:.3f}" if math.isfinite(row.loss) else "diverged"
    known = row.beside is not None and math.isfinite(row.loss)
    beside = f"{row.beside:+.2%}" if known else ""
    return (
        f"| {row.arm} | {len(row.seeds)} | {loss} | {_percent(row)} | {beside} | {row.times:.1f}x |"
    )


def _percent(row: Row) -> str:
    if not row.worse or not math.isfinite(row.loss):
        return ""
    least, mean, most = (f"{share:+.2%}" for share in row.worse)
    return mean if len(row.seeds) == 1 else f"{mean} ({least} .. {most})"


@dataclass(frozen=True, slots=True)
class Goal:
    """So many times fewer bytes, with so much more loss (a share) than the same recipe in bf16."""

    times: float
    worse: float

    def holds(self, row: Row) -> bool:
        """Whether the mean of the seeds is there."""
        return bool(row.worse) and row.times >= self.times and row.worse[1] <= self.worse


def reached(found: Sequence[Row], goals: Sequence[Goal]) -> str:
    """Markdown: which rows reach which goal, or that none does."""
    lines = []
    for goal in goals:
        names = [row.arm for row in found if goal.holds(row)]
        verdict = "; ".join(names) or "**none**"
        lines.append(f"- at least {goal.times:g}x within {goal.worse:.1%}: {verdict}")
    return "\n".join(lines)


def plot(found: Sequence[Row], title: str, target: Path) -> Path | None:
    """Loss beside that of the reference against how much less is sent; what diverged is left out.

    Returns:
        The file; None where it cannot be written.
    """
    from photon.report.figures import pyplot, save_figure

    figure, axes = pyplot().subplots(figsize=(8, 5), dpi=120)
    for row in found:
        if not row.worse or not math.isfinite(row.loss):
            continue
        least, mean, most = (100 * share for share in row.worse)
        bars = [[mean - least], [most - mean]]
        axes.errorbar(row.times, mean, yerr=bars, marker="o", capsize=2, label=row.arm)
    axes.set_xscale("log")
    axes.set_xlabel("times less than data-parallel training")
    axes.set_ylabel("validation loss above the same recipe in bf16 (%)")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="x-small")
    return save_figure(figure, target)
