"""Where the user reads: results on standard output, progress as plain lines on standard error."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table

from photon.run.listing import ROUNDS_LOOKED_AT, seconds_to_go
from photon.run.trackers import Tracker

if TYPE_CHECKING:  # it imports torch, for which `photon status` should not wait
    from photon.run.run_folder import RunFolder

WIDTH = 100
"""Of what is no terminal, where it is text that can be wrapped."""


class _Terminal(RichConsole):
    """A stream whose reader may go away (`| head`): training goes on, unseen.

    Only a real terminal gets control characters, whatever FORCE_COLOR says; a notebook is none.
    """

    def __init__(self, *, stderr: bool, quiet: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        is_terminal = stream is not None and stream.isatty() and not in_notebook()
        super().__init__(
            stderr=stderr,
            quiet=quiet,
            highlight=False,
            emoji=False,
            soft_wrap=True,
            force_terminal=is_terminal,
            force_jupyter=False,
        )
        if not is_terminal:
            self.width = WIDTH

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Console:
    """The user's two streams.

    Args:
        quiet: no progress.
        watching: progress is what was asked for, so it goes to standard output too.

    Attributes:
        results, progress: the streams.
        folder: of the run that is under way, or of its baseline.
    """

    def __init__(self, quiet: bool = False, *, watching: bool = False) -> None:
        self.results = _Terminal(stderr=False)
        self.progress = _Terminal(stderr=not watching, quiet=quiet)
        self.folder: Path | None = None

    @property
    def is_live(self) -> bool:
        """Whether what is shown can change in its place."""
        terminal = self.progress
        return terminal.is_terminal and not terminal.is_dumb_terminal and not terminal.quiet

    def say(self, line: str) -> None:
        """A line of progress."""
        self.progress.print(line, markup=False)

    def print(self, line: Any) -> None:
        """A result: a line as it is, or what Rich can draw."""
        self.results.print(line, markup=False)

    def print_table(self, table: Table) -> None:
        """A result: a table without a broken word, be it wider than the terminal."""
        for column in table.columns:
            cells = [str(cell) for cell in (column.header, *column.cells)]
            parts = [p for c in cells for p in (c.splitlines() if column.no_wrap else c.split())]
            column.min_width = max(map(cell_len, parts), default=0)
        terminal = self.results
        unlimited = terminal.options.update(max_width=sys.maxsize)
        least = terminal.measure(table, options=unlimited).minimum
        table.width = least if least > terminal.width else None
        terminal.print(table)

    def tracker(self, folder: RunFolder, label: str) -> Tracker:
        """A tracker that says records as they come."""
        self.folder = folder.path
        recent: deque[Mapping[str, Any]] = deque(maxlen=ROUNDS_LOOKED_AT)

        def track(record: Mapping[str, Any]) -> None:
            recent.append(record)
            self.say(progress_line(record, label, seconds_to_go(recent)))

        return track


def new_table(left: Iterable[str], right: Iterable[str], title: str | None = None) -> Table:
    """An empty table with columns of text, which stand left, and of numbers, which stand right."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def in_notebook() -> bool:
    """Whether a Jupyter kernel shows what this process prints, or started it (`!photon train`)."""
    if "JPY_PARENT_PID" in os.environ:
        return True
    kernel = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


def progress_line(record: Mapping[str, Any], label: str, left: float | None = None) -> str:
    """One line for one round, or for one interval of a centralised run.

    Args:
        left: seconds until the run has ended.
    """
    is_round = "round" in record
    if "rounds" in record:
        what = f"round {record['round']:>3}/{record['rounds']}"
    elif is_round:
        what = f"merge {record['round']:>3}  step {record['step']:>5}/{record['steps']}"
    else:
        what = f"{label} {record['step']:>5}/{record['steps']}"
    if is_round and not record.get("accepted", True):
        return f"{what}  skipped: no quorum"
    is_start = "train_loss" not in record
    parts = [what, "at the start" if is_start else f"loss {record['train_loss']:.3f}"]
    if "val_loss" in record:
        parts.append(
            f"val {record['val_loss']:.3f} ppl {perplexity(record['val_perplexity'])} "
            f"bpb {record['val_bits_per_byte']:.3f}"
        )
    if not is_start:
        parts += _course(record, left)
    return "  ".join(parts)


def _course(record: Mapping[str, Any], left: float | None) -> Sequence[str]:
    """Speed, bytes, time, and whose update is missing."""
    parts = [f"{record['tokens_per_second']:,.0f} tok/s"]
    if "device_busy" in record:
        parts.append(busy(record["device_busy"]))
    if sent := record.get("bytes_up", 0) + record.get("bytes_down", 0):
        parts.append(f"{format_bytes(sent)}, {against_ddp(sent, record['bytes_ddp'])}")
    parts.append(duration(record["seconds"]))
    if "epsilon" in record:
        parts.append(f"epsilon {record['epsilon']:.3g}")
    if left:
        parts.append(f"about {duration(left)} left")
    parts += [f"client {c} refused: {why}" for c, why in record.get("refused", {}).items()]
    parts += [f"client {c} missing: {why}" for c, why in record.get("missing", {}).items()]
    parts += [
        f"client {c} left out until round {r}" for c, r in record.get("quarantined", {}).items()
    ]
    parts += [f"client {c} began afresh: its state is lost" for c in record.get("state_lost", ())]
    return parts


def perplexity(value: float) -> str:
    """With a decimal; of a model that knows nothing in few digits, not in hundreds."""
    return f"{value:.1f}" if value < 1e7 else f"{value:.3g}"


def busy(share: float) -> str:
    """The share of their time in which devices train."""
    return f"busy {share:.0%}"


def against_ddp(sent: float, ddp: float) -> str:
    """Bytes sent, compared in words with those of data-parallel training."""
    return beside(sent, ddp, "DDP") if ddp else "DDP would send none"


def beside(value: float, other: float, what: str) -> str:
    """A number compared with another, in words: `4.9x less than DDP`, `2.0x more than DDP`.

    Args:
        value, other: above 0.
        what: the other one's name.
    """
    ratio = max(value, other) / min(value, other)
    shown = f"{ratio:.1f}x" if ratio < 100 else f"{ratio:,.0f}x"
    if shown == "1.0x":
        return f"as much as {what}"
    return f"{shown} {'less' if value < other else 'more'} than {what}"


def format_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """As people read it: 0.12 s, 3.4 min, 5.6 h, 7.8 d."""
    for unit, size, most in (("s", 1.0, 120), ("min", 60.0, 120), ("h", 3600.0, 72)):
        if seconds < most * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
