"""What the fuzzers share: their command line, and the line of what came of it.

It goes to benchmarks/results/fuzz.jsonl, unless fewer mutants were asked for than by default.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from records import RESULTS, append

LOG = RESULTS / "fuzz.jsonl"


def run(about: str | None, count: int, fuzz: Callable[[int, int], Counter[str]]) -> None:
    """Fuzz as the command line asks, and print the outcomes.

    Args:
        about: docstring of the script.
        count: of mutants, by default.
        fuzz: gives the outcomes of a count and a seed.
    """
    parser = argparse.ArgumentParser(description=str(about).partition("\n")[0])
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.monotonic()
    outcomes = fuzz(arguments.count, arguments.seed)
    told = ", ".join(f"{number} {what}" for what, number in sorted(outcomes.items()))
    seconds = time.monotonic() - begun
    print(f"{arguments.count} mutants in {seconds:.0f} s: {told}")
    if arguments.count >= count:
        what = Path(sys.argv[0]).stem.removeprefix("fuzz_")
        run = {"mutants": arguments.count, "seed": arguments.seed, "seconds": round(seconds, 1)}
        append(LOG, {"what": what, **run, "outcomes": dict(outcomes)})
