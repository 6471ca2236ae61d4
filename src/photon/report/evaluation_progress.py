"""How far an evaluation is, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from photon.report.console import Console

LINE_SECONDS = 10.0


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Takes the task at hand and the share that is done: a bar on a terminal, else lines."""
    if console.progress.quiet:
        yield lambda what, done: None
        return
    if not console.is_live:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console.progress, transient=True) as bar:
        number = bar.add_task("reading", total=1.0)
        yield lambda what, done: bar.update(number, completed=done, description=what)


class _Lines:
    """A line now and then."""

    def __init__(self, console: Console) -> None:
        self.console, self.begun = console, time.monotonic()
        self.shown = self.begun

    def __call__(self, what: str, done: float) -> None:
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = f"  {(now - self.begun) * (1 - done) / done:.0f} s left" if done > 0 else ""
        self.console.say(f"evaluating  {done:4.0%}  {what}{left}")
