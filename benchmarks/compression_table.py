"""What runs of `compression.py` come to, as a table. Pure functions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
        worse: of each common seed the loss over that of the same recipe, sent in bf16, less 1.
        beside: mean loss over that with averaged moments, sent in bf16, less 1.
        times: how many times fewer bytes than data-parallel training; the least of the seeds.
    """

    arm: str
    seeds: tuple[int, ...]
    loss: float
    spread: float
    worse: list[float]
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
        worse=worse,
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
    loss = f"{row.loss:.3f}" if math.isfinite(row.loss) else "diverged"
    if len(row.seeds) > 1 and math.isfinite(row.loss):
        loss += f" ± {row.spread:.3f}"
    worse = percents(row.worse) if math.isfinite(row.loss) else ""
    known = row.beside is not None and math.isfinite(row.loss)
    beside = f"{row.beside:+.2%}" if known else ""
    return f"| {row.arm} | {len(row.seeds)} | {loss} | {worse} | {beside} | {row.times:.1f}x |"


def percents(shares: Sequence[float]) -> str:
    """Mean (least .. most), or the only one; nothing where there is none."""
    if not shares:
        return ""
    mean = f"{statistics.fmean(shares):+.2%}"
    return mean if len(shares) == 1 else f"{mean} ({min(shares):+.2%} .. {max(shares):+.2%})"


@dataclass(frozen=True, slots=True)
class Goal:
    """So many times fewer bytes, with so much more loss (a share) than the same recipe in bf16."""

    times: float
    worse: float
