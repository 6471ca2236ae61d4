"""Time to a loss over slow links: Photon beside torch's DDP, and beside what was predicted.

    python benchmarks/links.py                                all of it, about two hours on 2 cores
    python benchmarks/links.py run DDP compressed             arms by a part of their names
    python benchmarks/links.py run --mbit 10 --milliseconds 1 100
    python benchmarks/links.py run --list                     what the log does not have
    python benchmarks/links.py run --minutes 20               none that would be begun later
    python benchmarks/links.py --smoke                        tiny, nothing kept
    python benchmarks/links.py table [--loss 4.0]             results as Markdown

Four parts, each a line of benchmarks/results/links.jsonl; what is there is not run again:

curve    Validation losses of a whole run of an arm, which are the same over every link, in a
         process or two, as fast as they go. DDP's is that of the centralised run of the same steps
         and tokens: what averaging gradients in every step computes, but for bf16.
machine  What Photon's processes take beside steps, without links: of it come the predictions.
link     A short run of real processes over a shaped link: seconds and bytes of a step, beside
         `photon plan`'s and the simulator's. Steps last 0.4 s, so that the cores do not decide.
kills    The same with nodes that are killed with -9. DDP has none: it starts again from its last
         checkpoint.

Photon's links are those of `shaped.py`. DDP's are those of `links_hub.py`, which takes root: where
that is refused DDP is left out, and said to be.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import links_hub
from links_arms import DDP, SAME_MACHINE, Length, Link, chosen, curve, killed, machine, over
from links_table import of_part, table
from quality_setting import SMOKE, Setting
from records import RESULTS, append, lines

LOG = RESULTS / "links.jsonl"
WHOLE = Length(Setting(clients=4), step_seconds=0.4, rounds=4, ddp_steps=16, kill_rounds=8)
TINY = Length(Setting(SMOKE, clients=2, local_steps=2, steps=4), step_seconds=0.02, rounds=2,
              ddp_steps=4, kill_rounds=2)  # fmt: skip
MBITS, MILLISECONDS = (10.0, 100.0, 1000.0), (1.0, 50.0, 100.0)
KILLED_OVER = Link(100.0, 50.0)
Records = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """One that is asked for; a curve and a machine have no link."""

    part: str
    arm: str
    seed: int
    link: Link | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a line of the log has of it."""
        link = self.link and {"mbit": self.link.mbit, "milliseconds": self.link.milliseconds}
        return {"part": self.part, "arm": self.arm, "seed": self.seed, **(link or {})}

    def __str__(self) -> str:
        link = f"  {self.link}" if self.link else ""
        return f"{self.part:<8} {self.arm:<10} seed {self.seed}{link}"


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two lines the same."""
    return tuple(record.get(name) for name in ("part", "arm", "seed", "mbit", "milliseconds"))


def runs(arms: Sequence[str], links: Sequence[Link], seed: int) -> Iterator[Run]:
    """All that are needed for these arms over these links, in an order in which they can be run."""
    ours = [arm for arm in arms if arm != DDP]
    yield from (Run("curve", arm, seed) for arm in arms)
    yield from (Run("machine", SAME_MACHINE[arm], seed) for arm in ours)
    yield from (Run("link", arm, seed, link) for link, arm in product(links, arms))
    yield from (Run("kills", arm, seed, KILLED_OVER) for arm in ours)


def wanted(every: Iterator[Run], records: Records) -> list[Run]:
    """Those that the log does not have, each once."""
    done = {key(record) for record in records}
    return [run for run in dict.fromkeys(every) if key(run.facts) not in done]


def measure(run: Run, length: Length, records: Records) -> dict[str, Any]:
    """Its line of the log."""
    begun = time.monotonic()
    found = _found(run, length, records)
    return {**run.facts, **found, "wall_seconds": round(time.monotonic() - begun, 1)}


def _found(run: Run, length: Length, records: Records) -> dict[str, Any]:
    if run.part == "curve":
        return {"curve": curve(run.arm, length.setting, run.seed)}
    if run.part == "machine":
        return machine(run.arm, length, run.seed)
    assert run.link is not None
    if run.part == "kills":
        return killed(run.arm, run.link, length, run.seed)
    return over(run.arm, run.link, length, run.seed, beside(run, records))


def beside(run: Run, records: Records) -> dict[str, float]:
    """What its machine takes beside steps; nothing of DDP's."""
    same = SAME_MACHINE.get(run.arm)
    found = [one for one in of_part(records, "machine")
             if (one["arm"], one["seed"]) == (same, run.seed)]  # fmt: skip
    return {name: found[-1][name] for name in ("node", "server")} if found else {}


def run_all(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    arms = chosen(arguments.arms)
    links = [Link(*one) for one in product(arguments.mbit, arguments.milliseconds)]
    refused = links_hub.refusal() if DDP in arms else ""
    if refused:
        say(f"DDP over links is left out: {refused}")
    ends = time.monotonic() + 60 * arguments.minutes
    for run in wanted(runs(arms, links, arguments.seed), lines(arguments.log)):
        if refused and (run.part, run.arm) == ("link", DDP):
            continue
        if arguments.list:
            say(str(run))
        elif time.monotonic() < ends:
            record = measure(run, WHOLE, lines(arguments.log))
            append(arguments.log, record)
            say(f"{run}  {record['wall_seconds']:.0f} s")


def smoke(say: Callable[[str], None]) -> None:
    """A curve, and DDP over a link; Photon over links is in tests/benchmarks/test_shaped.py."""
    refused, records = links_hub.refusal(), []
    asked = [Run("curve", "compressed", 1), Run("link", DDP, 1, Link(100.0, 5.0))]
    for run in asked[:1] if refused else asked:
        records.append(measure(run, TINY, records))
        say(f"{run}  {records[-1]['wall_seconds']:.0f} s")
    say(f"DDP over links is left out: {refused}" if refused else table(records))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table"], nargs="?", default="run")
    parser.add_argument("arms", nargs="*", help="names, or parts")
    parser.add_argument("--mbit", type=float, nargs="+", default=MBITS)
    parser.add_argument("--milliseconds", type=float, nargs="+", default=MILLISECONDS,
                        help="one way")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--loss", type=float, help="table: that seconds are counted to")
    parser.add_argument("--list", action="store_true", help="say what would be run; run nothing")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--log", type=Path, default=LOG)
    arguments = parser.parse_args()
    try:
        if arguments.smoke:
            smoke(_say)
        elif arguments.what == "table":
            _say(table(lines(arguments.log), arguments.loss))
        else:
            run_all(arguments, _say)
    except ValueError as error:
        parser.error(str(error))


def _say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    main()
