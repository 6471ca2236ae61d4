"""`photon export`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import RunPath


@click.command(name="export")
@click.argument("checkpoint", type=RunPath())
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--client", type=click.IntRange(0), help="Whose model, with personalised layers.")
def command(checkpoint: Path, folder: Path, client: int | None) -> None:
    """Write CHECKPOINT, a run folder or one of its checkpoints, for transformers into DIR.

    \b
    photon export runs/quickstart quickstart-hf
    photon export runs/quickstart/checkpoints/round_000024.json quickstart-hf
    """
    from photon.hub.exchange import export_folder

    export_folder(checkpoint, folder, client)
    click.echo(f"folder      {folder}")
