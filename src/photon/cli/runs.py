"""`photon runs`, `status`, `watch` and `stop`: runs as seen from another terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import A_DAY, PATH, Number, RunPath, json_option
from photon.errors import warn

if TYPE_CHECKING:
    from photon.run.listing import RunStatus


@click.command(name="runs")
@json_option
@click.argument("folder", required=False, type=PATH)
def runs(as_json: bool, folder: Path | None) -> None:
    """List the runs in a folder (default: runs): how far they are, and whether they run.

    \b
    photon runs
    photon runs /shared/runs --json
    """
    from dataclasses import asdict

    from photon.errors import RunFolderError
    from photon.report.console import Console, new_table
    from photon.run.listing import find_runs

    if folder is not None and not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder")
    folder = folder or Path("runs")
    found = find_runs(folder)
    if as_json:
        click.echo(json.dumps([asdict(status) for status in found], indent=1))
        return
    if not found:
        click.echo(f"no runs in {folder}; `photon train` makes one")
        return
    table = new_table(("run", "kind", "state"), ("done", "tokens", "loss", "val loss"))
    for one in found:
        losses = ["-" if loss is None else f"{loss:.3f}" for loss in (one.loss, one.val_loss)]
        done = f"{one.done}/{one.total}" if one.total else "-"
        table.add_row(one.run, one.kind, one.state, done, f"{one.tokens:,}", *losses)
    Console().print_table(table)


@click.command(name="status")
@json_option
@click.argument("run", type=RunPath())
def status(as_json: bool, run: Path) -> None:
    """Say where a run is: its round or step, its clients, its last record, the time left.

    The run may have been started from another terminal; its folder is read and left alone.

    \b
    photon status NAME
    photon status runs/NAME --json
    """
    from dataclasses import asdict

    from photon.report.console import Console
    from photon.report.live_view import view
    from photon.run.listing import damage, look_at

    look = look_at(run)
    for line in damage(run):
        warn(line)
    if as_json:
        click.echo(json.dumps(asdict(look), indent=1))
        return
    console = Console()
    console.print(view(look))
    if look.record:
        console.print(_line(look.record, look.status))


@click.command(name="watch")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
@click.option("--interval", default=1.0, show_default=True, type=Number(0.05, A_DAY),
              help="Seconds between two looks.")  # fmt: skip
@click.argument("run", type=RunPath())
def watch(as_json: bool, interval: float, run: Path) -> None:
    """Follow a run until it ends: its records so far, each new one, and what is under way.

    The run may have been started from another terminal; Ctrl-C ends the watching, not the run.

    \b
    photon watch NAME
    photon watch runs/NAME --json | jq .val_loss
    """
    from photon.report.console import Console
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
                console.say(_line(record, status))
    if not as_json:
        status = run_status(run)
        console.say(f"{run}: {status.state}")


def _line(record: Mapping[str, Any], status: RunStatus) -> str:
    """A record's line; a run that was resumed may not be as long as earlier records say."""
    from photon.report.console import progress_line

    if "rounds" in record and status.by_round:
        record = {**record, "rounds": status.total}
    return progress_line(record, status.kind)


@click.command(name="stop")
@click.option("--wait", default=120.0, show_default=True, type=Number(0),
              help="Seconds to wait for it to save.")  # fmt: skip
@click.argument("run", type=RunPath())
def stop(wait: float, run: Path) -> None:
    """Stop a run of this machine from another terminal: its step ends, everything is saved.

    \b
    photon stop quickstart
    photon train --resume quickstart                   goes on with it
    photon train --resume quickstart fl.n_rounds=114   ends it, where 114 rounds are done
    """
    from photon.run.going_on import how_to_go_on
    from photon.run.listing import stop_run
    from photon.run.run_folder import read_facts

    pid = stop_run(run, wait)
    click.echo(
        f"process {pid} has saved and ended; go on with: {how_to_go_on(run, read_facts(run))}"
    )
