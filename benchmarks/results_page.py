"""Write docs/results.md and its plots from the logs of the benchmarks.

    python benchmarks/results_page.py                      the page of benchmarks/results
    python benchmarks/results_page.py --check              exit code 1 where the page is another
    python benchmarks/results_page.py --out FOLDER         results.md and images below a folder

The page has nothing that is typed but its prose: figures, verdicts and provenance are those of the
logs. `PHOTON_RESULTS=FOLDER` reads the logs of another folder. A new log is a function in `page`
that makes its section, and a line in `SECTIONS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import records
from page import (
    beside_peers,
    carrying,
    comparing,
    growing,
    learning,
    not_waiting,
    others,
    over_links,
    rounds,
    sending,
    stepping,
    trust,
)
from page.plots import draw
from page.section import Logs, Section, rendered
from records import Record

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS: tuple[Callable[[Logs], Section], ...] = (
    learning.section,
    comparing.section,
    growing.section,
    sending.section,
    sending.codecs,
    stepping.section,
    beside_peers.section,
    rounds.section,
    others.data,
    carrying.section,
    not_waiting.section,
    over_links.section,
    others.planning,
    others.evaluation,
    trust.lies,
    trust.secure,
    others.whole,
)
HEAD = """\
# Results

<!-- Made by `python benchmarks/results_page.py` from benchmarks/results/*.jsonl; do not edit. -->

Every number that is claimed, with the command that made it. A claim holds where all that its row
counts (seeds, runs, medians of pairs) keeps the bar. All figures are from machines with few CPU
cores; there are none from a GPU, from a link between cities, or from a model that a product would
use. One command measures it again, but for scores, which need the Eval Gauntlet's files: about two
days on two cores, by the times in the logs, in parts that go on where they were stopped:

    bash scripts/proof.sh                      # what is not measured yet, into benchmarks/results
    bash scripts/proof.sh --results FOLDER     # everything anew, on this machine
    bash scripts/proof.sh --smoke              # that it all runs: tiny, nothing kept
"""


def logs_of(folder: Path) -> Logs:
    """The logs of a folder, by name, each read when it is asked for."""

    def lines(name: str) -> list[Record]:
        return list(records.lines(folder / f"{name}.jsonl"))

    return lines


def page(logs: Logs) -> str:
    return "\n".join([HEAD, *(rendered(section(logs), logs) for section in SECTIONS)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    logs, target = logs_of(records.RESULTS), arguments.out / "results.md"
    made = page(logs)
    if arguments.check:
        same = target.exists() and target.read_text(encoding="utf-8") == made
        print(f"{target} is {'up to date' if same else 'another: run results_page.py'}")
        return 0 if same else 1
    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    target.write_text(made, encoding="utf-8")
    draw(logs, arguments.out / "images")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
