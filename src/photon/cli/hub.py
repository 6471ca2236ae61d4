"""`photon export` and `import`: models to and from Hugging Face folders."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import PATH, RunPath, client_option


@click.command(name="export")
@click.argument("checkpoint", type=RunPath())
@click.argument("folder", type=PATH, metavar="DIR")
@client_option
def export(checkpoint: Path, folder: Path, client: int | None) -> None:
    """Write CHECKPOINT, a run folder or one of its checkpoints, for transformers into DIR.

    \b
    photon export runs/quickstart quickstart-hf
    photon export runs/quickstart/checkpoints/round_000048.json quickstart-hf
    """
    from photon.hub.hf_folder import export_folder

    is_replaced = export_folder(checkpoint, folder, client)
    click.echo(f"folder      {folder}{', in place of the earlier export' if is_replaced else ''}")


@click.command(name="import")
@click.argument("source", type=PATH, metavar="HF_FOLDER")
@click.argument("folder", type=PATH, metavar="DIR")
def import_(source: Path, folder: Path) -> None:
    """Make a run folder DIR of a transformers folder: GPT-2, MPT, Llama or Qwen3.

    \b
    photon import quickstart-hf runs/imported
    photon generate runs/imported "def read("
    photon train pretrained_model_path=runs/imported
    """
    from photon.hub.hf_folder import import_folder

    import_folder(source, folder)
    click.echo(f"folder      {folder}")
