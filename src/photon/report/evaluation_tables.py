"""Results of evaluations as tables, models side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Table

from photon.report.console import Console, new_table, perplexity
from photon.scoring.evaluate import Evaluation
from photon.scoring.harness import HarnessResult

HEADING_WIDTH = 18
"""Of a column of scores, as `0.1234 ±0.0123` needs it."""


def print_tables(found: Sequence[Evaluation], console: Console) -> None:
    """Losses, composites, tasks, failures, and where everything lies."""
    for table in (_loss_table(found), _composite_table(found), _task_table(found)):
        if table.row_count:
            console.print_table(table)
    for one in found:
        for key, reason in one.failures.items():
            console.print(f"failed    {one.model}  {key}: {reason}")
        console.print(f"results   {one.folder}/results.json")


def _models(found: Sequence[Evaluation | HarnessResult]) -> list[str]:
    """Names of models as headings."""
    return [_folded(one.model) for one in found]


def _folded(name: str) -> str:
    """A path that is wider than the numbers below it, broken behind slashes."""
    lines = [""]
    for part in re.findall(r"[^/]*/|[^/]+", name):
        if lines[-1] and len(lines[-1] + part) > HEADING_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _loss_table(found: Sequence[Evaluation]) -> Table:
    columns = ("loss", "ppl", "bits/byte", "accuracy", "above unigram", "tokens")
    table = new_table(("model", "text"), columns, "losses")
    for one in found:
        for name, score in one.losses.items():
            above = "-" if score.above_unigram is None else f"{score.above_unigram:+.3f}"
            table.add_row(
                one.model,
                f"{name}, mean of {score.of_clients} clients' models" if score.of_clients else name,
                f"{score.loss:.3f}",
                perplexity(score.perplexity),
                f"{score.bits_per_byte:.3f}",
                f"{score.accuracy:.3f}",
                above,
                f"{score.tokens:,}",
            )
    return table


def _composite_table(found: Sequence[Evaluation]) -> Table:
    """Averages and categories; a partial one has a row of its own."""
    table = new_table(("score",), _models(found), "composites")
    names = dict.fromkeys(c.name for one in found for c in one.composites)
    for name in names:
        cells = []
        for one in found:
            score = next((c.score for c in one.composites if c.name == name), None)
            cells.append("-" if score is None else f"{score:.4f}")
        table.add_row(name, *cells)
    return table


def _task_table(found: Sequence[Evaluation]) -> Table:
    """Accuracy with its standard error, beside what chance and a constant answer get."""
    facts = ("chance", "majority", "n", "truncated", "nonfinite")
    table = new_table(("task",), [*_models(found), *facts], "tasks")
    keys = dict.fromkeys(key for one in found for key in one.tasks)
    for key in keys:
        scores = [one.tasks[key].score if key in one.tasks else None for one in found]
        one = next(score for score in scores if score is not None)
        table.add_row(
            key,
            *("-" if s is None else f"{s.accuracy:.4f} ±{s.stderr:.4f}" for s in scores),
            f"{one.chance:.2f}",
            f"{one.majority:.3f}",
            f"{one.n:,}",
            _of_models([s and s.truncated for s in scores]),
            _of_models([s and s.nonfinite for s in scores]),
        )
    return table


def _of_models(counts: Sequence[int | None]) -> str:
    """A count that the models have in common, or that of each."""
    known = {count for count in counts if count is not None}
    if len(known) == 1:
        return f"{known.pop():,}"
    return ", ".join("-" if count is None else f"{count:,}" for count in counts)


def print_harness(found: Sequence[HarnessResult], console: Console) -> None:
    """Metrics of lm-eval's tasks with its standard errors, and where they lie."""
    table = new_table(("task", "metric"), [*_models(found), "n"], "lm-eval")
    rows = dict.fromkeys(
        (task, key)
        for one in found
        for task, metrics in one.tasks.items()
        for key, value in metrics.items()
        if isinstance(value, float) and "_stderr" not in key
    )
    for task, key in rows:
        name, _, kind = key.partition(",")
        cells = [_with_error(one.tasks[task], key, f"{name}_stderr,{kind}") for one in found]
        table.add_row(task, name, *cells, str(found[0].n.get(task, "-")))
    console.print_table(table)
    for one in found:
        console.print(f"results   {one.folder}/lm_eval.json")
        if one.samples:
            console.print(f"samples   {one.folder}/lm_eval.samples.jsonl")


def _with_error(metrics: dict[str, object], key: str, error: str) -> str:
    value, spread = metrics.get(key), metrics.get(error)
    if not isinstance(value, float):
        return "-"
    return f"{value:.4f} ±{spread:.4f}" if isinstance(spread, float) else f"{value:.4f}"
