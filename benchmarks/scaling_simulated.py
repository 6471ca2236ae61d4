"""A plan beside the simulator: the federation of a small model over links that are as much slower.

Time is bytes over rates, so a model of a 237th of the parameters over links of a 237th of the rate
takes as long as the large one, if the plan is right. The simulation has the real server and nodes,
their messages and codecs; its training is a stand-in.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from base_recipe import BASE
from scaling_plan import CLIENTS, LATENCY, LINKS, LOCAL_STEPS, MODELS, RUNGS, setting_of

from photon.config import Config, load_config
from photon.core.walltime import LinkSpeed
from photon.experiment import experiment
from photon.experiment.plan import Estimate, make_estimate
from photon.machine.quantity import parse_quantity
from photon.run.preparation import config_of_run, embedded_data
from photon.simulation.engine import Simulation
from photon.simulation.links import Group, Link, Links, places_of

ROUNDS = 4
INFINITE = float("inf")


@dataclass(frozen=True, slots=True)
class Case:
    """What is planned and simulated.

    Attributes:
        server: its link is as fast as a site's, or without limit.
    """

    model: str
    link: str
    rung: str
    server: Literal["as a site", "without limit"]


CASES = tuple(
    Case(model, "100 Mbit/s", "uniform:107/7 / uniform:75/11", server)
    for model in ("125M", "7B")
    for server in ("as a site", "without limit")
)


def simulated(case: Case, folder: Path, more: Sequence[str] = ()) -> dict[str, Any]:
    """Seconds and bytes of a round: planned, and simulated.

    Args:
        more: overrides of the small model.
    """
    config = small(case.rung, folder, more)
    steps = f"llm_config.local_steps={config.inner.local_steps}"
    planned = estimate(load_config([*MODELS[case.model].overrides(case.rung), steps]), case)
    parameters = estimate(config, case).parameters
    rate = parse_quantity(LINKS[case.link]) * parameters / planned.parameters
    server = Link() if case.server == "without limit" else Link(up=rate, down=rate)
    seconds, sent = rounds_of(config, rate, server, planned.step_seconds)
    return {
        "part": "simulated",
        **asdict(case),
        "clients": config.federation.population,
        "local_steps": config.inner.local_steps,
        "planned_seconds": planned.federated.round_seconds,
        "simulated_seconds": seconds,
        "planned_bits": 8 * planned.federated.round_bytes / planned.parameters,
        "simulated_bits": 8 * sent / parameters,
    }


def estimate(config: Config, case: Case) -> Estimate:
    """Of the transfers and the steps alone, which is what the simulation has too."""
    setting = setting_of(case.link, price=0.0)
    if case.server == "without limit":
        setting = replace(setting, server=LinkSpeed(up=INFINITE, down=INFINITE))
    return make_estimate(config, replace(setting, floor=0.0, memory=INFINITE, disk=INFINITE))


def small(rung: str, folder: Path, more: Sequence[str]) -> Config:
    """The quickstart's model in the federation that was planned."""
    config = config_of_run(
        [*BASE, f"fl.n_total_clients={CLIENTS}", f"fl.n_rounds={ROUNDS}",
         f"llm_config.local_steps={LOCAL_STEPS}", "fl.eval_period=null",
         "compare.centralized=false", "compare.alone=false", f"photon.saving_path={folder}",
         "llm_config.save_interval=1000", "photon.threads=1", *RUNGS[rung], *more],
        "federated", lambda line: None,
    )  # fmt: skip
    root, _ = embedded_data(config.data.embedded, 1, config.inner.row_length, lambda line: None)
    machine = {"nodes": config.federation.population}
    return config.but(data={"train": {"root": str(root)}}, machine=machine)


def rounds_of(
    config: Config, rate: float, server: Link, step_seconds: float
) -> tuple[float, float]:
    """Seconds and bytes of a round after the first, in which nothing comes down; medians."""
    clients = config.federation.population
    group = Group(clients=list(range(clients)), up=rate, down=rate, latency=LATENCY,
                  step_seconds=step_seconds)  # fmt: skip
    links = Links(groups=[group], trainer="stand-in", server=server)
    simulation = Simulation(links, places_of(links, clients, Path("links.yaml")))
    ends: list[float] = []
    sent: list[float] = []

    def track(record: Mapping[str, Any]) -> None:
        ends.append(simulation.so_far(record["tokens"])["seconds"])
        sent.append(record["bytes_up"] + record["bytes_down"])

    experiment.train(config, engine=simulation.factory, console=lambda folder, label: track)
    return statistics.median(b - a for a, b in pairwise(ends)), statistics.median(sent[1:])
