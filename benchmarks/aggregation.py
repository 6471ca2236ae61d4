"""What each rule of `fl.aggregation` costs beside the mean: seconds and memory of a close.

    python benchmarks/aggregation.py [--parameters 25M] [--clients 4 8 16 32] [--codecs bf16 int4]

A close merges the updates of all clients and takes the step of Nesterov's outer optimizer in place;
updates have been examined before, as in a run, so that only what the rule changes is measured. The
rules take turns with the mean; the quickest of each counts. Memory is what a close takes beyond
what was there before. Bar: three times the mean, in the same memory. A line of each goes to
benchmarks/results/aggregation.jsonl; with --smoke a close is tiny and nothing is kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from close import OUTER, Round
from network import seconds
from records import RESULTS, append
from round import count

from photon import points
from photon.core.round import close_round
from photon.machine.device import num_cores, return_freed_memory

LOG = RESULTS / "aggregation.jsonl"
REFERENCE = "mean"


class Turns:
    """Closes of one round's updates by any rule; the state goes on from close to close."""

    def __init__(self, parameters: int, clients: int, codec: str) -> None:
        self.opened = Round(parameters, clients, codec)
        self.verdicts = self.opened.examine()

    def close(self, rule: str) -> None:
        opened = self.opened
        rules = replace(opened.rules, mixing=points.aggregation(rule))
        close_round(
            opened.state, opened.plan, opened.updates,
            outer=OUTER, rules=rules, verdicts=self.verdicts,
        )  # fmt: skip

    def memory(self, rule: str) -> int:
        """Bytes that a close takes beyond what is there."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = resident("VmRSS")
        self.close(rule)
        return resident("VmHWM") - before


def resident(what: str) -> int:
    """Bytes of this process in memory: now, or at most."""
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index(f"{what}:") + 1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=count, default=count("25M"))
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--codecs", nargs="+", default=["bf16", "int4"])
    parser.add_argument("--rules", nargs="+", default=list(points.AGGREGATIONS))
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    try:
        for rule in arguments.rules:
            points.aggregation(rule)
        for codec in arguments.codecs:
            points.codec(codec)
    except ValueError as error:
        parser.error(str(error))
    if arguments.smoke:
        arguments.parameters, arguments.clients, arguments.turns = 60_000, [4], 1
    torch.set_num_threads(arguments.threads)
    return_freed_memory()
    print(f"{arguments.threads} threads, close of {arguments.parameters / 1e6:.0f}M")
    print("| codec | clients | rule | seconds | beside the mean | MB |\n|---|---|---|---|---|---|")
    for codec in arguments.codecs:
        for clients in arguments.clients:
            turns = Turns(arguments.parameters, clients, codec)
            for rule in arguments.rules:
                case = {"codec": codec, "clients": clients, "rule": rule}
                record = case | measured(turns, rule, arguments.turns)
                print(row(record), flush=True)
                if not arguments.smoke:
                    size = {"parameters": arguments.parameters, "threads": arguments.threads}
                    append(LOG, record | size)


def measured(turns: Turns, rule: str, number: int) -> dict[str, float]:
    """Seconds of a close, how many times the mean's, and the memory that it takes."""
    turns.close(rule)
    found = [
        (seconds(partial(turns.close, rule)), seconds(partial(turns.close, REFERENCE)))
        for _ in range(number)
    ]
    own, mean = (min(times) for times in zip(*found, strict=True))
    megabytes = turns.memory(rule) / 1e6
    return {"seconds": own, "mean_seconds": mean, "times": own / mean, "megabytes": megabytes}


def row(record: dict[str, Any]) -> str:
    """A line of the table."""
    return (
        f"| {record['codec']} | {record['clients']} | {record['rule']} | {record['seconds']:.3f} | "
        f"{record['times']:.2f} | {record['megabytes']:.0f} |"
    )


if __name__ == "__main__":
    main()
