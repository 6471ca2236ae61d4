"""Real training on the simulator's clock, where some clients are four times slower than others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from photon.experiment import experiment
from photon.run.preparation import config_of_run
from photon.run.results import TrainResult
from photon.simulation.engine import Simulation
from photon.simulation.links import Group, Links, places_of


def sites(clients: int, slow: int) -> Links:
    """The last `slow` of the clients take four times as long for a step."""
    parts = [(range(clients - slow), 1.0), (range(clients - slow, clients), 4.0)]
    return Links(groups=[
        Group(clients=list(own), step_seconds=seconds, step_jitter=0.05)
        for own, seconds in parts if own
    ])  # fmt: skip


def train(overrides: Sequence[str], slow: float) -> TrainResult:
    """Train a federation.

    Args:
        slow: share of its clients.
    """
    config = config_of_run(overrides, "federated", lambda line: None)
    clients = config.federation.population
    links = sites(clients, round(slow * clients))
    simulation = Simulation(links, places_of(links, clients, Path("links.yaml")))
    return experiment.train(config, engine=simulation.factory)
