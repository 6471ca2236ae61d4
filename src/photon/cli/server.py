"""`photon server`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from photon.cli.options import (
    json_option,
    keys_option,
    overrides_argument,
    quiet_option,
    require_flower,
    resume_option,
)

if TYPE_CHECKING:
    from photon.config.explain.idle import Course
    from photon.config.schema import Config
    from photon.say import Say


@click.command(name="server")
@click.option("--listen", default="0.0.0.0:8000", show_default=True, help="HOST:PORT for nodes.")
@keys_option("Folder of `photon keys`.")
@click.option("--insecure", is_flag=True, help="No TLS and no keys: whoever reaches it, joins.")
@click.option("--host-clients", help="Host these clients on this machine too, as in 0-3,7.")
@resume_option
@json_option
@quiet_option
@overrides_argument
def command(
    listen: str,
    keys: Path,
    insecure: bool,
    host_clients: str | None,
    resume_from: Path | None,
    as_json: bool,
    quiet: bool,
    overrides: tuple[str, ...],
) -> None:
    """Run a federation whose clients train on other machines.

    The same command goes on from the last committed round if the run is there already, and so does
    --resume without the run's keys.

    \b
    photon keys init --host server.example.org
    photon keys add site-a --clients 0-3
    photon server run_uuid=first fl.n_total_clients=8 photon.n_nodes=2
    photon node --server server.example.org:8000 --name site-a --clients 0-3     on site-a
    photon server --host-clients 0-7            one machine: a node of its own, keys made at once
    photon server --resume runs/first
    """
    require_flower()
    from photon.experiment.experiment import resume, train
    from photon.flower.federation import over_flower
    from photon.flower.own_node import own_node, require_clients
    from photon.machine.address import split_address
    from photon.report.console import Console
    from photon.report.live_view import live_view
    from photon.report.outcome import report

    console, address = Console(quiet), split_address(listen)
    known = None if insecure else keys
    course = "server" if host_clients is None else "hosting"
    config = _config(resume_from, overrides, console.say, course)
    # Before anything is made: what is refused leaves no run behind.
    require_clients(host_clients, config.federation.population, config.data.train)
    _require_own(known, address)
    if insecure:
        click.echo(
            "photon: warning: --insecure: nothing is encrypted, and whoever reaches "
            f"{listen} may take part",
            err=True,
        )
    runs, given = Path(config.machine.runs_folder), config.values_by_key()
    own = own_node(host_clients, address, known, runs, given)
    with own as hint, live_view(console):
        engine = over_flower(*address, known, hint, _given_options(), course)
        tell = {"say": console.say, "console": console.tracker, "engine": engine}
        if resume_from is None:
            result = train(config, resumes=True, **tell)
        else:
            result = resume(resume_from, overrides, **tell)
    report(result, console, as_json)


def _config(
    resume_from: Path | None, overrides: tuple[str, ...], say: Say, course: Course
) -> Config:
    """Of the run that begins, or goes on."""
    from photon.experiment.experiment import require_run
    from photon.run.going_on import FLOWER
    from photon.run.preparation import config_of_run
    from photon.run.restore import config_to_go_on
    from photon.run.run_folder import read_run

    if resume_from is not None:
        require_run(resume_from, read_run(resume_from)[1], FLOWER)
        return config_to_go_on(resume_from, overrides)
    config = config_of_run(overrides, course, say, elsewhere=course == "server")
    return config.but(name=config.name or "federation")


def _require_own(keys: Path | None, address: tuple[str, int]) -> None:
    """Refuse keys that are not right, and an address that is taken."""
    from photon.flower.superlink import ServerKeys
    from photon.machine.address import require_free
    from photon.wire.enrolment import REGISTER

    if keys is not None and (keys / REGISTER).exists():  # else they are made, or missed, later
        ServerKeys.of(keys)
    require_free(*address)


def _given_options() -> tuple[str, ...]:
    """What the command that goes on must say again: the options of this one but for the run's."""
    context, words = click.get_current_context(), []
    for name in ("listen", "keys", "insecure", "host_clients"):
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        value = context.params[name]
        words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return tuple(words)
