"""What is under way in a run, drawn from the beacons in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live as Screen
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from photon.report.console import Console, busy, duration
from photon.run.kinds import ELSEWHERE, NODE
from photon.run.listing import Look, Onlooker, RunStatus
from photon.run.live import Live

MOST_CLIENTS = 16
"""Clients with a line of their own."""
PHASES = {"wait": "waiting for nodes", "train": "training",
          "commit": "waiting for the last round's commit", "aggregate": "averaging",
          "validate": "validating"}  # fmt: skip


@contextmanager
def live_view(console: Console) -> Iterator[None]:
    """Show below the printed lines what is under way; only on a terminal."""
    if not console.is_live:
        yield
        return
    onlookers: dict[Path, Onlooker] = {}

    def draw() -> Any:
        if console.folder is None:
            return Text("")
        onlooker = onlookers.setdefault(console.folder, Onlooker(console.folder))
        return view(onlooker.look())

    with Screen(
        console=console.progress, get_renderable=draw, transient=True, refresh_per_second=2
    ):
        yield


def view(look: Look) -> Group:
    """One line for the run, one for each client that trains on this machine."""
    head = Text(headline(look))
    if look.status.state == "running" and look.live.clients:
        return Group(head, _clients(look.live))
    return Group(head)


def headline(look: Look) -> str:
    """Where a run is, in a line."""
    status, live, left = look.status, look.live, look.seconds_left
    if status.kind == NODE:
        return f"{status.run}: {status.state}, {ELSEWHERE}, which knows how far the run is"
    if status.state != "running":
        return f"{status.run}: {status.state} after {status.place}"
    parts = [f"{status.run}: {_place(status, live)}"]
    if live.phase == "train" and live.cohort:
        parts.append(f"{len(live.arrived)} of {len(live.cohort)} clients are done")
    if live.tokens_per_second:
        parts.append(f"{live.tokens_per_second:,.0f} tok/s")
    if look.record and "device_busy" in look.record:
        parts.append(f"devices {busy(look.record['device_busy'])}")
    if left is not None:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def _place(status: RunStatus, live: Live) -> str:
    if live.step is not None:
        return f"step {live.step} of {live.steps}"
    if live.round is None or live.phase is None:
        return status.place
    phase = PHASES.get(live.phase, live.phase)
    where = f"round {live.round} of {status.total}" if status.by_round else f"merge {live.round}"
    return f"{where}, {phase} for {duration(live.phase_seconds)}"


def _clients(live: Live) -> Table:
    table = Table.grid(padding=(0, 2))
    for client in live.clients[:MOST_CLIENTS]:
        table.add_row(
            f"  client {client.client}",
            ProgressBar(total=client.steps, completed=client.step, width=30),
            f"{client.step}/{client.steps}",
            f"{client.tokens_per_second:,.0f} tok/s" if client.tokens_per_second else "",
        )
    if (more := len(live.clients) - MOST_CLIENTS) > 0:
        table.add_row(f"  and {more} more")
    return table
