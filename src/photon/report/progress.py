"""The line that shows how far preparation is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live

from photon.data.prepare.pipeline import Progress
from photon.report.console import Console

_LINE_SECONDS = 10.0


class ProgressLine:
    """Shows progress: on a terminal one line that changes, else a line now and then."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self.console, self.live, self._shown = console, live, time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if self.live is not None:
            self.live.update(progress_text(progress))
        elif time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self.console.say(progress_text(progress))


@contextmanager
def progress_line(console: Console) -> Iterator[ProgressLine]:
    """A progress line for the time of a block."""
    if not console.is_live:
        yield ProgressLine(console, None)
        return
    with Live(console=console.progress, transient=True, refresh_per_second=4) as live:
        yield ProgressLine(console, live)


def progress_text(progress: Progress) -> str:
    """Documents, tokens, their speeds and the time left."""
    seconds = max(progress.seconds, 1e-9)
    parts = [
        f"{progress.documents:,} documents ({_rate(progress.new_documents / seconds)})",
        f"{progress.tokens:,} tokens ({_rate(progress.new_tokens / seconds)})",
    ]
    if progress.share is not None:
        parts.append(f"{progress.share:.0%}")
    if (left := progress.seconds_left) is not None:
        minutes, rest = divmod(round(left), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} left")
    return "preparing   " + "  ".join(parts)


def _rate(value: float) -> str:
    """Long documents (books) come one in some seconds."""
    return f"{value:,.{1 if value < 10 else 0}f}/s"
