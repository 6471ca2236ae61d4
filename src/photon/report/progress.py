"""How far something is: in place on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from photon.report.console import Console

if TYPE_CHECKING:
    from photon.data.prepare.pipeline import Progress as Prepared

LINE_SECONDS = 10.0


class _Lines:
    """Says a line, made of the seconds since the start, unless it said one a moment ago."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = self._said = time.monotonic()

    def __call__(self, line: Callable[[float], str]) -> None:
        now = time.monotonic()
        if now - self._said >= LINE_SECONDS:
            self._said = now
            self._console.say(line(now - self._begun))


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[Prepared], None]]:
    """Shows documents and tokens that are prepared, while the block lasts."""
    if not console.is_live:
        lines = _Lines(console)
        yield lambda prepared: lines(lambda _: preparation_text(prepared))
        return
    with Live(console=console.progress, transient=True, refresh_per_second=4) as live:
        yield lambda prepared: live.update(preparation_text(prepared))


@contextmanager
def evaluation_progress(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Shows the task at hand and the share of all that is done, while the block lasts."""
    if not console.is_live:
        lines = _Lines(console)
        yield lambda task, done: lines(lambda seconds: _evaluation_text(task, done, seconds))
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
        yield lambda task, done: bar.update(number, completed=done, description=task)


@contextmanager
def transfer_progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Shows which file is read or sent, and how many of all bytes are done; off a terminal nothing.

    Yields:
        Takes a file's name and the bytes of it that have been done since the last call.
    """
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console.progress, disable=not console.is_live) as bar:
        number = bar.add_task("", total=total)
        yield lambda name, size: bar.update(number, advance=size, description=name)


def preparation_text(prepared: Prepared) -> str:
    """Documents, tokens, their speeds and the time left."""
    seconds = max(prepared.seconds, 1e-9)
    parts = [
        f"{prepared.documents:,} documents ({_rate(prepared.new_documents / seconds)})",
        f"{prepared.tokens:,} tokens ({_rate(prepared.new_tokens / seconds)})",
    ]
    if prepared.share is not None:
        parts.append(f"{prepared.share:.0%}")
    if (left := prepared.seconds_left) is not None:
        minutes, rest = divmod(round(left), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} left")
    return "preparing   " + "  ".join(parts)


def _evaluation_text(task: str, done: float, seconds: float) -> str:
    left = f"  {seconds * (1 - done) / done:.0f} s left" if done > 0 else ""
    return f"evaluating  {done:4.0%}  {task}{left}"


def _rate(value: float) -> str:
    """A second; books come one in some seconds, so that a digit behind the point counts."""
    return f"{value:,.{1 if value < 10 else 0}f}/s"
