"""`photon stop`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import RunPath


@click.command(name="stop")
@click.option("--wait", default=120.0, show_default=True, help="Seconds to wait for it to save.")
@click.argument("run", type=RunPath())
def command(wait: float, run: Path) -> None:
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
