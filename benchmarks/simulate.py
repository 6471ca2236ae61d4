"""What `photon simulate` predicts of a federation, beside the same federation of real processes.

    python benchmarks/simulate.py [--nodes 4] [--rounds 20] [--step-seconds 0.2] [--quick]

Three steps for each way to run: a real run without links shaped says what nodes and server take
beside steps (`round_seconds`, `server_seconds`) on this machine; the simulation predicts the run
over slow links; the same run over the shaping proxy (`shaped.py`). Bar: seconds of a round and
utilisation within 10 %. Nodes that go on while their updates travel have taken most steps of the
second round before the first record, from which a run is counted: with few rounds that weighs. A
line for each way goes to benchmarks/results/simulate.jsonl, but not with --quick.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from records import RESULTS, append
from shaped import PLAIN, Case, Shape, Site, measure, prepared

from photon.config import load_config
from photon.config.compose import known_keys
from photon.experiment import experiment
from photon.run.trackers import read_lines
from photon.simulation.engine import Simulation
from photon.simulation.links import Group, Links, places_of

WAYS = {
    "sync": (),
    "overlapped": ("fl.overlap=delayed",),
    "asynchronous": ("fl.mode=async",),
}
"""Overrides; those whose keys are not there are left out."""
BAR = 0.1
LOG = RESULTS / "simulate.jsonl"


def links_of(case: Case, round_seconds: float, server_seconds: float) -> Links:
    """What the shaping proxies of a case do, as a simulation supposes it."""
    groups = [
        Group(
            clients=[number],
            step_seconds=site.step_seconds,
            round_seconds=round_seconds,
            latency=site.link.delay,
            jitter=site.link.jitter,
            loss=site.link.loss,
            **({} if site.link.rate is None else {"up": site.link.rate, "down": site.link.rate}),
        )
        for number, site in enumerate(case.sites)
    ]
    return Links(groups=groups, server_seconds=server_seconds, noticed_after=0.0, seed=case.seed)


def predict(case: Case, links: Links, home: Path, data: Path) -> dict[str, float]:
    """Seconds of a round and utilisation, without the first round, as `Figures` count them."""
    keys = [*case.keys(), f"dataset.train.root_local={data}", f"photon.saving_path={home}",
            "run_uuid=run", "photon.workers=0", "photon.threads=1"]  # fmt: skip
    simulation = Simulation(links, places_of(links, len(case.sites), Path("links.yaml")))
    seen: list[dict[str, Any]] = []

    def track(record: Mapping[str, Any]) -> None:
        seen.append(simulation.so_far(record["tokens"]))

    experiment.train(
        load_config(keys), engine=simulation.factory, console=lambda folder, label: track
    )
    ends = [one["seconds"] for one in seen]
    trained = seen[-1]["device_seconds"]["train"] - seen[0]["device_seconds"]["train"]
    return {
        "round_seconds": statistics.median(b - a for a, b in pairwise(ends)),
        "utilization": trained / (len(case.sites) * (ends[-1] - ends[0])),
        "goodput": seen[-1]["goodput"],
    }


def beside_steps(case: Case, home: Path, data: Path) -> tuple[float, float]:
    """Seconds of a round beside its steps: of a node, and of the server, without shaped links."""
    plain = replace(case, sites=[replace(site, link=PLAIN) for site in case.sites])
    (home / "plain").mkdir()
    real = measure(plain, home / "plain", data)
    own = [
        sum(numbers.get(key, 0.0) for key in ("load_seconds", "encode_seconds", "write_seconds"))
        for record in read_lines(home / "plain" / "server" / "run" / "metrics.jsonl")[1:]
        for numbers in record["client_metrics"].values()
    ]
    node = statistics.median(own)
    found = predict(plain, links_of(plain, node, 0.0), home / "plain-predicted", data)
    return node, max(0.0, real.round_seconds - found["round_seconds"])


def compare(way: str, case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = prepared(home / "data", case)
        node, server = beside_steps(case, home, data)
        predicted = predict(case, links_of(case, node, server), home / "predicted", data)
        (home / "real").mkdir()
        real = measure(case, home / "real", data)
    ratios = {
        key: predicted[key] / getattr(real, key)
        for key in ("round_seconds", "utilization", "goodput")
    }
    return {
        "way": way,
        "round_seconds_beside_steps": {"node": node, "server": server},
        "predicted": predicted,
        "real": {key: getattr(real, key) for key in ratios},
        "ratio": ratios,
        "within": all(abs(ratios[key] - 1) <= BAR for key in ("round_seconds", "utilization")),
    }


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--step-seconds", type=float, default=0.2)
    parser.add_argument("--rate", type=float, default=150e3, help="bytes/s")
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--jitter", type=float, default=0.02)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--quick", action="store_true", help="two nodes, three rounds")
    arguments = parser.parse_args(given)
    if arguments.quick:
        arguments.nodes, arguments.rounds = 2, 3
    shape = Shape(arguments.delay, arguments.jitter, arguments.rate, arguments.loss)
    sites = [Site(arguments.step_seconds, shape)] * arguments.nodes
    there = set(known_keys())
    for way in arguments.ways:
        if all(key.partition("=")[0] in there for key in WAYS[way]):
            record = compare(way, Case(sites, arguments.rounds, WAYS[way]))
            print(json.dumps(record), flush=True)
            if not arguments.quick:
                append(LOG, record)


if __name__ == "__main__":
    main()
