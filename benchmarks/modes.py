"""Loss at equal tokens, for each way of not waiting, beside the synchronous recipe.

    python benchmarks/modes.py                         all arms, three seeds
    python benchmarks/modes.py run overlap --seeds 1   arms by a part of their names
    python benchmarks/modes.py run "fragments 2" --smoke   tiny runs, whose lines are not kept
    python benchmarks/modes.py table                   results as Markdown

Everything of a run is real: the recipe of `long_rounds.py`, whose 384 steps of eight clients every
arm takes. Every run appends a line to benchmarks/results/modes.jsonl; finished runs are not
repeated, so that it can be stopped and started again. A seed sets the initial weights and the order
of the rows. Asynchronous runs depend on the clock, so theirs is that of the simulator.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import uneven_sites
from compression import outcome
from compression_arms import named, of_seed
from compression_table import percents
from records import RESULTS, append, lines
from smoke import TINY

import photon

STEPS, LOCAL_STEPS = 384, 16
REFERENCE = "synchronous"
LOG = RESULTS / "modes.jsonl"


def fragments(count: int, *more: str) -> list[str]:
    """Rounds shorter by as much as there are more of them, so that periods stay."""
    steps = LOCAL_STEPS // count
    return [
        f"fl.fragments={count}",
        f"llm_config.local_steps={steps}",
        f"fl.n_rounds={STEPS // steps}",
        *more,
    ]


def overlap(how: str, steps: int | None, *more: str) -> list[str]:
    until = [] if steps is None else [f"fl.overlap_steps={steps}"]
    return [f"fl.overlap={how}", *until, *more]


def momentum(value: float) -> str:
    return f"fl.strategy_kwargs.server_momentum={value}"


ARMS: dict[str, list[str]] = {
    REFERENCE: [],
    "overlap delayed, whole round": overlap("delayed", None),
    "overlap delayed, 4 steps": overlap("delayed", 4),
    "overlap delayed, 1 step": overlap("delayed", 1),
    "overlap eager, 8 steps": overlap("eager", 8),
    "overlap eager, 1 step": overlap("eager", 1),
    "overlap eager, whole round, momentum 0.0": overlap("eager", None, momentum(0.0)),
    "fragments 2": fragments(2),
    "fragments 4": fragments(4),
    "fragments 2, overlap delayed, 1 step": fragments(2, *overlap("delayed", 1)),
    "fragments 4, overlap delayed, whole round": fragments(4, *overlap("delayed", None)),
    "asynchronous, equal speeds": ["fl.mode=async"],
    "asynchronous, equal speeds, buffer 4": ["fl.mode=async", "fl.buffer=4"],
    "asynchronous, two of eight 4x slower": ["fl.mode=async"],
    "asynchronous, two 4x slower, steps by speed": ["fl.mode=async", "fl.steps_by_speed=true"],
}
"""Name -> overrides beyond the recipe."""
SLOW = {"equal speeds": 0.0, "4x slower": 0.25}
"""Part of the name of an asynchronous arm -> share of the clients, two of eight, that are slow."""


def train(arm: str, overrides: list[str]) -> None:
    slow = next((share for part, share in SLOW.items() if part in arm), None)
    if slow is None:
        photon.train(overrides, progress=False)
    else:
        uneven_sites.train(overrides, slow)


def run(arm: str, seed: int, more: list[str]) -> dict[str, Any]:
    """Train an arm; its line of the log."""
    overrides = [*of_seed(seed), *ARMS[arm], *more]
    return {"arm": arm, "seed": seed, **outcome(overrides, partial(train, arm))}


def run_all(patterns: list[str], seeds: list[int], *, smoke: bool) -> None:
    done = {(record["arm"], record["seed"]) for record in lines(LOG) if not smoke}
    chosen = [arm for text in patterns or [""] for arm in named(text, ARMS)]
    for seed in seeds:
        for arm in dict.fromkeys([REFERENCE, *chosen]):
            if (arm, seed) in done:
                continue
            record = run(arm, seed, TINY if smoke else [])
            loss = "diverged" if record["val_loss"] is None else f"{record['val_loss']:.4f}"
            print(f"{arm:<36} seed {seed}  {loss}  {record['wall_seconds']:.0f} s", flush=True)
            if not smoke:
                append(LOG, record)


def table(records: list[dict[str, Any]]) -> str:
    """Losses of each arm, and what they are above those of the reference with the same seeds."""
    losses = {(r["arm"], r["seed"]): r["val_loss"] for r in records}
    rows = ["| arm | loss | above synchronous |", "|---|---|---|"]
    for arm in [arm for arm in ARMS if any(one == arm for one, _ in losses)]:
        seeds = sorted(seed for one, seed in losses if one == arm)
        own = {seed: losses[arm, seed] for seed in seeds}
        shown = ", ".join("diverged" if v is None else f"{v:.3f}" for v in own.values())
        beside = {seed: losses.get((REFERENCE, seed)) for seed in seeds}
        above = [v / r - 1 for seed, v in own.items() if v and (r := beside[seed])]
        rows.append(f"| {arm} | {shown} | {'' if arm == REFERENCE else percents(above)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table"], nargs="?", default="run")
    parser.add_argument("arms", nargs="*", help="parts of names; the reference is run too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    try:
        if arguments.what == "table":
            print(table(lines(LOG)))
        else:
            run_all(arguments.arms, arguments.seeds, smoke=arguments.smoke)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
