"""`photon status`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("run", type=click.Path(path_type=Path))
def command(as_json: bool, run: Path) -> None:
    """Say where a run is: its round or step, its clients, its last record, the time left.

    The run may have been started from another terminal; its folder is read and left alone.

    \b
    photon status runs/NAME
    photon status runs/NAME --json
    """
    from dataclasses import asdict

    from photon.cli.live_view import view
    from photon.report import Console, progress_line
    from photon.runtime.listing import run_status, seconds_left
    from photon.runtime.live import read_live
    from photon.runtime.trackers import read_lines

    status, live = run_status(run), read_live(run)
    records = read_lines(run / "metrics.jsonl")
    if as_json:
        facts = {"status": asdict(status), "live": asdict(live),
                 "seconds_left": seconds_left(status, live, records),
                 "record": records[-1] if records else None}  # fmt: skip
        click.echo(json.dumps(facts, indent=1))
        return
    console = Console(progress=True)
    console.print(view(run))
    if records:
        console.say(progress_line(records[-1], status.kind))
