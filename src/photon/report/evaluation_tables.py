"""Results of evaluations as tables, models side by side."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table

from photon.report.console import Console
from photon.scoring.evaluate import Evaluation
from photon.scoring.harness import HarnessResult

HEADING_WIDTH = 18
"""Of a column of scores, as `0.1234 ±0.0123` needs it."""


def print_tables(found: Sequence[Evaluation], console: Console) -> None:
    """Losses, composites, tasks, failures, and where everything lies."""
    for table in (loss_table(found), composite_table(found), task_table(found)):
        if table.row_count:
            _print_whole(table, console)
    for one in found:
        for key, reason in one.failures.items():
            console.print(f"failed    {one.model}  {key}: {reason}")
        console.print(f"results   {one.folder}/results.json")


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(_folded(name), justify="right", no_wrap=True)
    return table


def _folded(name: str) -> str:
    """A name as a heading: a path that is wider than its numbers is broken behind slashes."""
    lines = [""]
    for part in re.findall(r"[^/]*/|[^/]+", name):
        if lines[-1] and len(lines[-1] + part) > HEADING_WIDTH:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _print_whole(table: Table, console: Console) -> None:
    """Print a table without breaking a word, be it wider than the terminal."""
    for column in table.columns:
        cells = [str(cell) for cell in (column.header, *column.cells)]
        parts = [p for c in cells for p in (c.splitlines() if column.no_wrap else c.split())]
        column.min_width = max(map(cell_len, parts), default=0)
    terminal = console.results
    unlimited = terminal.options.update(max_width=sys.maxsize)
    least = terminal.measure(table, options=unlimited).minimum
    table.width = least if least > terminal.width else None
    console.print(table)


def loss_table(found: Sequence[Evaluation]) -> Table:
    columns = ("loss", "ppl", "bits/byte", "accuracy", "above unigram", "tokens")
    table = _table("losses", ("model", "text"), columns)
    for one in found:
        for name, score in one.losses.items():
            above = "-" if score.above_unigram is None else f"{score.above_unigram:+.3f}"
            table.add_row(
                one.model,
                f"{name}, mean of {score.of_clients} clients' models" if score.of_clients else name,
                f"{score.loss:.3f}",
                f"{score.perplexity:.1f}",
                f"{score.bits_per_byte:.3f}",
                f"{score.accuracy:.3f}",
                above,
                f"{score.tokens:,}",
            )
    return table


def composite_table(found: Sequence[Evaluation]) -> Table:
    """Averages and categories; a partial one has a row of its own."""
    table = _table("composites", ("score",), [one.model for one in found])
    names = dict.fromkeys(c.name for one in found for c in one.composites)
    for name in names:
        cells = []
        for one in found:
            score = next((c.score for c in one.composites if c.name == name), None)
            cells.append("-" if score is None else f"{score:.4f}")
        table.add_row(name, *cells)
    return table


def task_table(found: Sequence[Evaluation]) -> Table:
    """Accuracy with its standard error, beside what chance and a constant answer get."""
    facts = ("chance", "majority", "n", "truncated", "nonfinite")
    table = _table("tasks", ("task",), [*(one.model for one in found), *facts])
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
            str(one.truncated),
            str(sum(s.nonfinite for s in scores if s is not None)),
        )
    return table


def print_harness(found: Sequence[HarnessResult], console: Console) -> None:
    _print_whole(harness_table(found), console)


def harness_table(found: Sequence[HarnessResult]) -> Table:
    """Metrics of lm-eval's tasks, with its standard errors."""
    table = _table("lm-eval", ("task", "metric"), [*(one.model for one in found), "n"])
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
    return table


def _with_error(metrics: dict[str, object], key: str, error: str) -> str:
    value, spread = metrics.get(key), metrics.get(error)
    if not isinstance(value, float):
        return "-"
    return f"{value:.4f} ±{spread:.4f}" if isinstance(spread, float) else f"{value:.4f}"
