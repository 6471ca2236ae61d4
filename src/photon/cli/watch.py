"""`photon watch`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from photon.cli.options import RunPath


@click.command(name="watch")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(min=0.05),
              help="Seconds between two looks.")  # fmt: skip
@click.argument("run", type=RunPath())
def command(as_json: bool, interval: float, run: Path) -> None:
    """Follow a run until it ends: its records so far, each new one, and what is under way.

    The run may have been started from another terminal; Ctrl-C ends the watching, not the run.

    \b
    photon watch NAME
    photon watch runs/NAME --json | jq .val_loss
    """
    from photon.report.console import Console, progress_line
    from photon.report.live_view import live_view
    from photon.run.listing import follow, run_status

    status = run_status(run)
    console = Console(quiet=as_json, watching=True)
    console.folder = run
    with live_view(console):
        for record in follow(run, interval):
            if as_json:
                click.echo(json.dumps(record))
            else:
                console.say(progress_line(record, status.kind))
    if not as_json:
        status = run_status(run)
        console.say(f"{run}: {status.state}")
