"""`photon simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from photon.cli.options import (
    PATH,
    json_option,
    overrides_argument,
    quiet_option,
    resume_option,
)
from photon.errors import PhotonNote, warn

if TYPE_CHECKING:
    from photon.config.dataset import Data
    from photon.report.console import Console
    from photon.run.results import TrainResult
    from photon.say import Say


@click.command(name="simulate")
@click.option("--links", "links_path", type=PATH, required=True, metavar="FILE",
              help="YAML of sites: their clients, links, speeds and failures.")  # fmt: skip
@click.option("--stand-in", is_flag=True, help="Train nothing: updates of the right shape, drawn.")
@resume_option
@json_option
@quiet_option
@overrides_argument
def command(
    links_path: Path,
    stand_in: bool,
    resume_from: Path | None,
    as_json: bool,
    quiet: bool,
    overrides: tuple[str, ...],
) -> None:
    """Run a federation over links that you describe, in this process and in virtual time.

    The server and the nodes are the real ones, and so is the training, unless there is a stand-in
    for it. Only time is made up: what a message and a step take is what FILE says. All seconds
    that are shown and kept are virtual; a seed fixes them.

    \b
    photon simulate recipe=quickstart --links links.yaml
    photon simulate --links links.yaml fl.n_rounds=4 fl.compression=fp32
    photon simulate --links many.yaml --stand-in fl.n_total_clients=2000 fl.n_clients_per_round=16

    \b
    FILE, with its defaults where a key may be left out:
      trainer: real            or stand-in
      server_seconds: 0        between two rounds; or measured
      noticed_after: 10        seconds until the server knows that a node has gone
      server: {}               up, down, latency, jitter, loss of its own link
      groups:
        - clients: 0-7         all clients are in one group
          per_node: 1
          up: 20Mbit           up, down: default without limit
          latency: 0           seconds, one way; jitter: up to so much more
          loss: 0              probability that a piece of 64 KiB is sent twice
          step_seconds: 0.5    of an optimizer step; default: measured, as it is here
          round_seconds: 0     of a node's round beside its steps
          step_jitter: 0       0.1: some rounds are 10 % faster, some slower
          failures_every: 3600 mean seconds between failures; default: none
          back_after: 60       seconds that a node is away
    """
    from photon.config.overrides import keys_given
    from photon.experiment.experiment import resume, train
    from photon.report.console import Console
    from photon.report.live_view import live_view
    from photon.report.outcome import report
    from photon.run.preparation import config_of_run
    from photon.run.restore import config_to_go_on
    from photon.simulation.engine import Simulation
    from photon.simulation.links import nodes_needed, places_of, read_links

    console = Console(quiet)
    links = read_links(links_path, stand_in=stand_in)
    if links.trainer == "stand-in":
        text = "a stand-in draws the updates: times and bytes count, losses say nothing"
        warn(text, PhotonNote)
    if resume_from is not None:
        config = config_to_go_on(resume_from, overrides)
    else:
        config = config_of_run(overrides, "simulated", console.say)
    places = places_of(links, config.federation.population, links_path)
    options = ("--links", str(links_path.resolve()), *(["--stand-in"] if stand_in else []))
    simulation = Simulation(links, places, options)
    tell = {"say": console.say, "console": console.tracker, "engine": simulation.factory}
    with live_view(console):
        if resume_from is not None:
            result = resume(resume_from, overrides, **tell)
        else:
            asked = config.machine.nodes if "photon.n_nodes" in keys_given(overrides) else None
            needed = nodes_needed(asked, len(places), links_path)
            config = config.but(machine={"nodes": needed})
            if links.trainer == "stand-in":
                data = _with_corpus(config.data, config.inner.row_length, console.say)
                config = config.but(data=data)
            result = train(config, **tell)
    result = simulation.told(result)
    report(result, console, as_json)
    if not as_json and result.simulated is not None:
        _print(result, console)


def _with_corpus(data: Data, length: int, say: Say) -> Data:
    """With the embedded corpus, made for one client, where no data is named: a stand-in reads none,
    whatever the number of clients.
    """
    from photon.run.preparation import embedded_data

    if data.train.root is not None or data.train.store is not None:
        return data
    root, _ = embedded_data(data.embedded, 1, length, say)
    return data.but(train={"root": str(root)})


def _print(result: TrainResult, console: Console) -> None:
    """A table of what the simulation has found."""
    from photon.report.console import duration, new_table
    from photon.simulation.ledger import CAUSES

    found = result.simulated
    assert found is not None
    spent = found["device_seconds"]
    whole = max(sum(spent.values()), 1e-9)
    table = new_table(["time of devices"], ("each", "share"))
    for cause, name in CAUSES.items():
        each = duration(spent[cause] / found["devices"])
        table.add_row(name, each, f"{spent[cause] / whole:.1%}")
    console.print_table(table)
    since = f" since round {found['after_round']}" if found["after_round"] else ""
    console.print(
        f"simulated {duration(found['seconds'])} of {found['devices']:,} devices{since}: "
        f"utilization {found['utilization']:.1%}, goodput {found['goodput']:.1%} "
        f"({found['tokens_merged']:,} of {found['tokens_trained']:,} tokens reached the model)"
    )
