"""Larger models: what small ones say of their loss, and what they will take over links.

    python benchmarks/scaling.py run                       three sizes, federated and centralised
    python benchmarks/scaling.py run --list                what it would run, and how long
    python benchmarks/scaling.py run --minutes 20          none that would end later
    python benchmarks/scaling.py tune                      each at three rates, at a seed of its own
    python benchmarks/scaling.py plan [--price 2.5]        125M, 1B and 7B over three links; the
                                                           paper's 7B run; the simulator beside it
    python benchmarks/scaling.py --smoke                   tiny runs and a plan, nothing kept
    python benchmarks/scaling.py table                     results as Markdown

A run has about three tokens for each parameter, the recipe of the quickstart, and the rate that
`tune` found best for its size (before that the quickstart's). Plans are those of `photon plan`;
every line has the command that prints it. Lines go to benchmarks/results/scaling.jsonl; finished
runs are not repeated, plans are, and the newest counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from records import RESULTS, append, lines
from scaling_plan import LINKS, MODELS, PRICE, plans
from scaling_published import LONG, papers_run
from scaling_runs import RATES, SIZES, TUNING, Run, expected, measure, smoke, wanted
from scaling_simulated import CASES, simulated
from scaling_table import table

LOG = RESULTS / "scaling.jsonl"


def planned(price: float) -> Iterator[dict[str, Any]]:
    """Everything that takes no training."""
    yield from plans(price)
    yield from (papers_run(steps) for steps in LONG)
    yield from (papers_run(LONG[-1], link, sent) for sent in ("fp32", "int4") for link in LINKS
                if (link, sent) != ("10 Gbit/s", "fp32"))  # fmt: skip
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            yield simulated(case, Path(folder))


def run_all(runs: list[Run], arguments: argparse.Namespace) -> None:
    """Run them, and say before how long it will take."""
    ends, records = time.monotonic() + 60 * arguments.minutes, lines(arguments.log)
    guess = {run: expected(run, records) for run in runs}
    print(f"{len(runs)} runs, about {sum(guess.values()) / 60:.0f} minutes on 2 cores", flush=True)
    for run in runs:
        if arguments.list:
            print(f"{run.size}  {run.arm:<12} seed {run.seed}  {run.rate:g}  {guess[run]:.0f} s")
        elif time.monotonic() + guess[run] <= ends:
            record = measure(run)
            print(f"{run}  {record['val_loss']}  {record['wall_seconds']:.0f} s", flush=True)
            append(arguments.log, record)


def try_out(price: float) -> None:
    """A run of each arm, and the plans of the smallest model."""
    print(table([*smoke(), *plans(price, {"125M": MODELS["125M"]})]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "tune", "plan", "table"], nargs="?", default="run")
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=list(SIZES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--price", type=float, default=PRICE, help="dollars of an H100's hour")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true", help="say what would be run; run nothing")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--log", type=Path, default=LOG)
    arguments = parser.parse_args()
    if arguments.smoke:
        try_out(arguments.price)
    elif arguments.what == "table":
        print(table(lines(arguments.log)))
    elif arguments.what == "plan":
        for record in planned(arguments.price):
            append(arguments.log, record)
        print(table(lines(arguments.log)))
    else:
        tunes = arguments.what == "tune"
        seeds, rates = ([TUNING], RATES) if tunes else (arguments.seeds, ())
        run_all(wanted(lines(arguments.log), arguments.sizes, seeds, rates), arguments)


if __name__ == "__main__":
    main()
