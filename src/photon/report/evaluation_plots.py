"""Plots of evaluations: categories as a radar, scores over the rounds of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from photon.hub.scored import all_results
from photon.report.figures import draw_lines, pyplot, save_figure
from photon.run.run_folder import NUMBERED, number_of
from photon.run.trackers import read_lines
from photon.scoring.evaluate import Evaluation

SHORT = {"icl/metrics/eval_gauntlet/": "", "metrics/": "", "/accuracy": ""}


def draw_radar(found: Sequence[Evaluation], target: Path) -> Path | None:
    """Categories that all models have whole, one line a model; None where they are fewer than 3."""
    scores = [
        {c.name: c.score for c in one.composites if not c.is_average and not c.missing}
        for one in found
    ]
    names = [name for name in scores[0] if all(name in one for one in scores)]
    if len(names) < 3:
        return None
    angles = [2 * math.pi * number / len(names) for number in range(len(names))]
    figure, axes = pyplot().subplots(figsize=(6, 6), dpi=120, subplot_kw={"projection": "polar"})
    for one, values in zip(found, scores, strict=True):
        line = [values[name] for name in names]
        axes.plot([*angles, angles[0]], [*line, line[0]], marker="o", label=one.model)
    axes.set_xticks(angles, [name.replace("_", "\n") for name in names])
    axes.legend(loc="lower right")
    return save_figure(figure, target)


def draw_history(run: Path) -> Path | None:
    """Scores of a run over its rounds or steps: those recorded while it trained, and those of
    `photon evaluate` at its checkpoints. None where no score is known twice.
    """
    lines = {name: sorted(points) for name, points in _points(run).items() if len(points) > 1}
    if not lines:
        return None
    is_federated = any((run / "checkpoints").glob("round_*.json"))
    return draw_lines(lines, "round" if is_federated else "step", "score", run / "scores.png")


def _points(run: Path) -> dict[str, set[tuple[int, float]]]:
    found: dict[str, set[tuple[int, float]]] = {}
    for name, at, value in (*_recorded(run), *_evaluated(run)):
        for long, short in SHORT.items():
            name = name.replace(long, short)
        if value is not None:
            found.setdefault(name, set()).add((at, round(value, 6)))
    return found


def _recorded(run: Path) -> Iterator[tuple[str, int, Any]]:
    for record in read_lines(run / "metrics.jsonl"):
        for key, value in record.items():
            if key.startswith(tuple(SHORT)[:2]):
                yield key, record.get("round", record["step"]), value


def _evaluated(run: Path) -> Iterator[tuple[str, int, Any]]:
    for folder, results in all_results(run).items():
        if NUMBERED.fullmatch(folder.name) is None:
            continue
        at, whose = number_of(folder), "".join(f"{name}: " for name in folder.parts[:-1])
        for key, done in results["tasks"].items():
            yield whose + key, at, done["score"]["accuracy"]
        for one in results["composites"]:
            yield whose + one["name"], at, one["score"]
