"""Composite scores: categories of benchmarks above chance, and means of categories.

Rules of the Eval Gauntlet (Mosaic, llm-foundry v0.22), but for one: what lacks a benchmark is never
called by the composite's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from photon.config.evaluation import Benchmark, Gauntlet
from photon.evaluation.scoring import TaskScore

DEFAULT_AVERAGE = "default_average"


@dataclass(frozen=True, slots=True)
class Composite:
    """A category's score, or a mean of several.

    Attributes:
        name: the official name only where everything is in it.
        score: of what is there; None if nothing is.
        missing: benchmarks, or categories, that are not there or not whole.
        is_average: of categories.
    """

    name: str
    score: float | None
    missing: tuple[str, ...]
    is_average: bool = False


def composites(
    gauntlet: Gauntlet, scores: Mapping[str, TaskScore], *, is_whole: bool = True
) -> list[Composite]:
    """Averages, then categories.

    Args:
        scores: by `label/k-shot`.
        is_whole: False where only some rows of the tasks were scored.
    """
    categories = {
        one.name: _category(gauntlet, one.name, one.benchmarks, scores, is_whole)
        for one in gauntlet.categories
    }
    wanted = gauntlet.averages or {DEFAULT_AVERAGE: list(categories)}
    averages = [
        _average(name, {m: categories[m] for m in members}, is_whole)
        for name, members in wanted.items()
    ]
    return [*averages, *categories.values()]


def _category(
    gauntlet: Gauntlet,
    name: str,
    benchmarks: Sequence[Benchmark],
    scores: Mapping[str, TaskScore],
    is_whole: bool,
) -> Composite:
    there = [benchmark for benchmark in benchmarks if benchmark.key in scores]
    missing = tuple(b.key for b in benchmarks if b.key not in scores)
    if not there:
        return Composite(_label(name, 0, len(benchmarks), is_whole), None, missing)
    weights = [_weight(gauntlet.weighting, scores[b.key].n) for b in there]
    values = [_above_chance(gauntlet, scores[b.key].accuracy, b.random_baseline) for b in there]
    score = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return Composite(_label(name, len(there), len(benchmarks), is_whole), score, missing)


def _above_chance(gauntlet: Gauntlet, accuracy: float, chance: float) -> float:
    if not gauntlet.subtract_random_baseline:
        return accuracy
    return (accuracy - chance) / ((1 - chance) if gauntlet.rescale_accuracy else 1)


def _weight(weighting: str, rows: int) -> float:
    rows = max(rows, 1)
    return {"EQUAL": 1.0, "SAMPLE_SZ": rows, "LOG_SAMPLE_SZ": max(math.log2(rows), 1)}[weighting]


def _average(name: str, members: Mapping[str, Composite], is_whole: bool) -> Composite:
    missing = tuple(member for member, found in members.items() if found.missing)
    values = [found.score for found in members.values() if found.score is not None]
    whole = len(members) - len(missing)
    score = sum(values) / len(values) if values else None
    return Composite(_label(name, whole, len(members), is_whole), score, missing, True)


def _label(name: str, there: int, wanted: int, is_whole: bool) -> str:
    """The official name, or one that says what it is not."""
    parts = [] if there == wanted else [f"{there} of {wanted}"]
    parts += [] if is_whole else ["first rows"]
    return f"partial {name} ({', '.join(parts)})" if parts else name
