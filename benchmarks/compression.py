"""Loss against counted bytes, for each way of sending; everything of a run is real.

    python benchmarks/compression.py                            all arms, three seeds
    python benchmarks/compression.py run int4 topk --seeds 1    arms by a part of their names
    python benchmarks/compression.py run --local-steps 16 32 64 --splits iid source
    python benchmarks/compression.py run --models tiny "four times"
    python benchmarks/compression.py run int4 --rounds 200      a long run
    python benchmarks/compression.py run --quick                that all of them run: tiny
    python benchmarks/compression.py table                      results as Markdown

Every run appends a line to benchmarks/results/compression.jsonl; finished runs are not repeated, so
that it can be stopped and started again. The configuration is that of `long_rounds.py`, its
learning rate the best of `gate.py`'s grid. The reference of each setting and seed is the same
recipe sent in bf16. Bytes are those that the records of the run's rounds count, both directions,
moments and first parameters included.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from compression_arms import LOCAL_STEPS, MODELS, SPLITS, Setting, chosen, overrides_of
from compression_table import Goal, sent, table
from long_rounds import LONG_ROUNDS
from records import RESULTS, append, lines
from smoke import TINY

import photon
from photon.errors import NonFiniteLoss
from photon.run.trackers import read_lines

GOALS = [Goal(50, 0.003), Goal(100, 0.01), Goal(400, 0.01), Goal(1000, 0.02)]


def sums(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a run's records: the last validation loss, and the bytes of all rounds."""
    counted = ("bytes_up", "bytes_down", "bytes_ddp")
    found: dict[str, Any] = {key: sum(r.get(key, 0) for r in history) for key in counted}
    found["val_loss"] = next((r["val_loss"] for r in reversed(history) if "val_loss" in r), None)
    return found


def outcome(overrides: list[str], train: Callable[[list[str]], object]) -> dict[str, Any]:
    """What a run of the recipe ends with, as a line of a log has it."""
    begun, diverged = time.monotonic(), None
    with tempfile.TemporaryDirectory() as folder:
        place = [f"photon.saving_path={folder}", "run_uuid=arm"]
        try:
            train([*LONG_ROUNDS, *overrides, *place])
        except NonFiniteLoss as error:
            diverged = str(error)
        found = sums(read_lines(Path(folder) / "arm" / "metrics.jsonl"))
    if diverged:
        found |= {"val_loss": None, "diverged": diverged}
    seconds = round(time.monotonic() - begun, 1)
    return {**found, "wall_seconds": seconds, "overrides": overrides}


def run(arm: str, setting: Setting, seed: int, *, quick: bool = False) -> dict[str, Any]:
    """Train an arm; its line of the log."""
    overrides = overrides_of(arm, setting, seed) + (TINY if quick else [])
    return {
        "arm": arm,
        "model": setting.model,
        "split": setting.split,
        "local_steps": setting.local_steps,
        "rounds": setting.rounds,
        "seed": seed,
        **outcome(overrides, partial(photon.train, progress=False)),
    }


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two runs the same."""
    return tuple(
        record[name] for name in ("arm", "model", "split", "local_steps", "rounds", "seed")
    )


def planned(arguments: argparse.Namespace) -> Iterator[tuple[str, Setting, int]]:
    """The runs that were asked for: all arms of a setting and seed side by side."""
    for model, split, local_steps, seed in product(
        arguments.models, arguments.splits, arguments.local_steps, arguments.seeds
    ):
        for arm in chosen(arguments.arms):
            yield arm, Setting(model, split, local_steps, arguments.rounds), seed


def run_all(arguments: argparse.Namespace, log: Path) -> None:
    done = {key(record) for record in lines(log)}
    for arm, setting, seed in planned(arguments):
        spec = (arm, setting.model, setting.split, setting.local_steps, setting.rounds, seed)
        if spec in done and not arguments.quick:
            continue
        record = run(arm, setting, seed, quick=arguments.quick)
        loss = "diverged" if record["val_loss"] is None else f"{record['val_loss']:.4f}"
        times = record["bytes_ddp"] / sent(record)
        print(f"{arm:<56} seed {seed}  {loss}  {times:.1f}x  {setting.title}", flush=True)
        if not arguments.quick:
            append(log, record)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table"], nargs="?", default="run")
    parser.add_argument("arms", nargs="*", help="parts of names; references are run too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--local-steps", type=int, nargs="+", default=[LOCAL_STEPS[0]])
    parser.add_argument("--splits", choices=SPLITS, nargs="+", default=["iid"])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["tiny"])
    parser.add_argument("--rounds", type=int, help="of a run; else as many as make 384 steps")
    parser.add_argument("--quick", action="store_true", help="tiny runs, whose lines are not kept")
    parser.add_argument("--log", type=Path, default=RESULTS / "compression.jsonl")
    arguments = parser.parse_args()
    try:
        if arguments.what == "table":
            print(table(lines(arguments.log)))
        else:
            run_all(arguments, arguments.log)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
