"""`photon status`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from photon.cli.options import RunPath


@click.command(name="status")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("run", type=RunPath())
def command(as_json: bool, run: Path) -> None:
    """Say where a run is: its round or step, its clients, its last record, the time left.

    The run may have been started from another terminal; its folder is read and left alone.

    \b
    photon status NAME
    photon status runs/NAME --json
    """
    from dataclasses import asdict

    from photon.report.console import Console, progress_line
    from photon.report.live_view import view
    from photon.run.listing import Onlooker

    look = Onlooker(run).look()
    if as_json:
        click.echo(json.dumps(asdict(look), indent=1))
        return
    console = Console()
    console.print(view(look))
    if look.record:
        console.print(progress_line(look.record, look.status.kind))
