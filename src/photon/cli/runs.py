"""`photon runs`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="runs")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of all runs.")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def command(as_json: bool, folder: Path | None) -> None:
    """List the runs in a folder (default: runs): how far they are, and whether they run.

    \b
    photon runs
    photon runs /shared/runs --json
    """
    from dataclasses import asdict

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from photon.errors import RunFolderError
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
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("run", "kind", "state", "done", "tokens", "loss", "val loss"):
        table.add_column(column, justify="left" if column in ("run", "kind", "state") else "right")
    for one in found:
        losses = ["-" if loss is None else f"{loss:.3f}" for loss in (one.loss, one.val_loss)]
        done = f"{one.done}/{one.total}" if one.total else "-"
        table.add_row(one.run, one.kind, one.state, done, f"{one.tokens:,}", *losses)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
