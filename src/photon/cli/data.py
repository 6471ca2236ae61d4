"""`photon data`."""

from __future__ import annotations

import click

from photon.cli.data_files import import_, push, verify
from photon.cli.data_show import show


@click.group(name="data")
def command() -> None:
    """Show, check, move and convert prepared data.

    \b
    photon data show data/mine
    photon data verify data/mine
    photon data push data/mine s3://bucket/mine
    photon data import data/mds data/mine
    """


command.add_command(show)
command.add_command(verify)
command.add_command(push)
command.add_command(import_)
