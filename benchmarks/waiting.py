"""Who waits: federations of real processes over slow links, with slow and with killed clients.

    python benchmarks/waiting.py                        all arms
    python benchmarks/waiting.py run links overlap      arms by a part of their name
    python benchmarks/waiting.py run --quick            that all of them run: lines are not kept
    python benchmarks/waiting.py table                  results as Markdown

Two settings, see `shaped.py`:

links    Links so slow that a synchronous round in bf16 spends half its time on communication: a
         run without a limit tells what a client sends and receives in a round and how long it takes
         beyond its steps; the rate is chosen by that. Bars: utilization 0.90 with overlap, 0.97
         with overlap and four bits.
uneven   One client is four times slower than the three others, and nodes are killed every 20 s in
         the mean, which is the minute of a run three times as long. Bar: goodput 0.90 where nobody
         is waited for.

Every run appends a line to benchmarks/results/waiting.jsonl.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, append, lines
from shaped import Case, Churn, Figures, Shape, Site, measure, prepared

import photon

LOG = RESULTS / "waiting.jsonl"
BF16, INT4 = "fl.compression=bf16", "fl.compression=int4"
STEPS, STEP_SECONDS, NODES = 16, 0.4, 3


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to wait, or not to.

    Attributes:
        bar: least figure of its setting, utilization or goodput.
    """

    setting: str
    name: str
    overrides: tuple[str, ...]
    bar: float | None = None


ARMS = (
    Arm("links", "synchronous, bf16", (BF16,)),
    Arm("links", "overlap, bf16", (BF16, "fl.overlap=delayed"), 0.90),
    Arm("links", "overlap, int4", (INT4, "fl.overlap=delayed"), 0.97),
    Arm("uneven", "synchronous", ()),
    Arm("uneven", "synchronous, stragglers left out",
        ("fl.quorum=3", "fl.round_timeout_min=0", "fl.straggler_factor=2")),
    Arm("uneven", "asynchronous", ("fl.mode=async",), 0.90),
)  # fmt: skip
FIGURE = {"links": "utilization", "uneven": "goodput"}
ROUNDS = {"links": 10, "uneven": 8}


def links_case(arm: Arm, rounds: int, seed: int, seconds: float, rate: float | None) -> Case:
    sites = [Site(seconds, Shape(delay=0.02, jitter=0.005, rate=rate))] * NODES
    return Case(sites, rounds, arm.overrides, seed=seed)


def uneven_case(arm: Arm, rounds: int, seed: int, seconds: float, kill_every: float) -> Case:
    link = Shape(delay=0.02, jitter=0.005, rate=2e6, loss=1e-3)
    sites = [*[Site(seconds, link)] * 3, Site(4 * seconds, link)]
    return Case(sites, rounds, arm.overrides, Churn(kill_every, back_after=1.0), seed)


def half_rate(found: Figures, seconds: float) -> float:
    """Bytes per second at which a round takes twice as long as its steps.

    Args:
        found: of a run without a limit, whose rounds take longer than their steps all the same.
        seconds: of a step.

    Raises:
        ValueError: its rounds take that long by themselves.
    """
    each = (found.bytes_up + found.bytes_down) / (found.rounds * NODES)
    left = 2 * STEPS * seconds - found.round_seconds
    if left <= 0:
        raise ValueError(f"without a limit a round takes {found.round_seconds:.1f} s")
    return each / left


def case_of(arm: Arm, arguments: argparse.Namespace, rate: float | None) -> Case:
    rounds = 3 if arguments.quick else ROUNDS[arm.setting]
    seconds = 0.1 if arguments.quick else STEP_SECONDS
    if arm.setting == "links":
        return links_case(arm, rounds, arguments.seed, seconds, rate)
    return uneven_case(arm, rounds, arguments.seed, seconds / 2, arguments.kill_every)


def measured(case: Case) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return measure(case, Path(folder), prepared(Path(folder) / "data", case))


def probed_rate(arguments: argparse.Namespace) -> float:
    """The rate of the links, from a run of the synchronous arm without a limit."""
    case = case_of(ARMS[0], arguments, None)
    return half_rate(measured(replace(case, rounds=3)), case.sites[0].step_seconds)


def run(arm: Arm, arguments: argparse.Namespace, rate: float | None) -> dict[str, Any]:
    """The line of an arm in the log."""
    case = case_of(arm, arguments, rate)
    load = os.getloadavg()[0]
    found = asdict(measured(case))
    return {
        "setting": arm.setting, "arm": arm.name, "seed": arguments.seed, "bar": arm.bar,
        **{key: round(v, 4) if isinstance(v, float) else v for key, v in found.items()},
        "sites": [asdict(site) for site in case.sites],
        "churn": case.churn and asdict(case.churn), "overrides": case.keys(),
        "command": shlex.join(["python", "benchmarks/waiting.py", *sys.argv[1:]]),
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "load_before": round(load, 1), "python": platform.python_version(),
        "torch": torch.__version__, "photon": photon.__version__,
    }  # fmt: skip


def chosen(parts: Sequence[str]) -> list[Arm]:
    """Arms whose setting and name have all of these parts.

    Raises:
        ValueError: none has.
    """
    names = {f"{arm.setting} {arm.name}": arm for arm in ARMS}
    found = [arm for name, arm in names.items() if all(part in name for part in parts)]
    if not found:
        raise ValueError(f"no arm is named {' '.join(parts)!r}; there are: {'; '.join(names)}")
    return found


def run_all(arguments: argparse.Namespace) -> None:
    arms = chosen(arguments.arms)
    rate = arguments.rate
    if rate is None and any(arm.setting == "links" for arm in arms):
        rate = probed_rate(arguments)
        print(f"links of {rate:,.0f} bytes/s", flush=True)
    for arm in arms:
        record = run(arm, arguments, rate)
        print(row(record), flush=True)
        if not arguments.quick:
            append(LOG, record)


def row(record: dict[str, Any]) -> str:
    """Of the table in `table`."""
    sent = (record["bytes_up"] + record["bytes_down"]) / 1e6
    numbers = (
        f"{record['round_seconds']:.1f} s", f"{record['utilization']:.3f}",
        f"{record['goodput']:.3f}", f"{sent:.1f} MB", f"{record['kills']}",
        "" if record["bar"] is None else f"{FIGURE[record['setting']]} {record['bar']:.2f}",
    )  # fmt: skip
    return f"| {record['setting']} | {record['arm']} | {' | '.join(numbers)} |"


def table(lines: Sequence[dict[str, Any]]) -> str:
    head = ("setting", "arm", "a record every", "utilization", "goodput", "sent", "kills", "bar")
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(row, lines)])


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table"], nargs="?", default="run")
    parser.add_argument("arms", nargs="*", help="parts of a setting and name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="of the links, in bytes/s; else as told above")
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds in the mean")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(given)
    try:
        if arguments.what == "table":
            print(table(lines(LOG)))
        else:
            run_all(arguments)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
