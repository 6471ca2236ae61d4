"""`photon import`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="import")
@click.argument("source", type=click.Path(path_type=Path), metavar="HF_FOLDER")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def command(source: Path, folder: Path) -> None:
    """Make a run folder DIR of a transformers folder: GPT-2, MPT, Llama or Qwen3.

    \b
    photon import quickstart-hf runs/imported
    photon generate runs/imported "def read("
    photon train pretrained_model_path=runs/imported
    """
    from photon.hub.exchange import import_folder

    import_folder(source, folder)
    click.echo(f"folder      {folder}")
