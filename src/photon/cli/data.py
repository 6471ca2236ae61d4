"""`photon data`."""

from __future__ import annotations

import click

from photon.cli.data_files import import_, push, verify


@click.group(name="data")
def command() -> None:
    """Check, move and convert prepared data."""


command.add_command(verify)
command.add_command(push)
command.add_command(import_)
