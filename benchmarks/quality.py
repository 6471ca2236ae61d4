"""The quality table: ways of training one model on text in several places, each tuned alike.

    python benchmarks/quality.py tune centralised alone FedAvg DiLoCo FedAdam recipe
    python benchmarks/quality.py run                           main arms, rungs and modes
    python benchmarks/quality.py run recipe DiLoCo --clients 2 4 8 16
    python benchmarks/quality.py run recipe DiLoCo --local-steps 4 8 16 32 64 128
    python benchmarks/quality.py run recipe --local-steps 256 --steps 768
    python benchmarks/quality.py run recipe --splits iid source --models "four times"
    python benchmarks/quality.py run "recipe: " --seeds 4      changes of the recipe
    python benchmarks/quality.py run "radial + falls to 0" --seeds 4               two together
    python benchmarks/quality.py run "average of many rounds + uniform:110/7 / uniform:80/11" \
        --steps 3072 --rates 0.018/1                           at rates that are given
    python benchmarks/quality.py run ... --list                what it would run, and how long
    python benchmarks/quality.py run ... --minutes 40          none that would end later
    python benchmarks/quality.py --smoke                       a few tiny runs, nothing kept
    python benchmarks/quality.py table                         results as Markdown, and plots

All arms of a table train on the same tokens in the same number of sequential steps, 32 rows in each
whoever takes part, so that there is one centralised run for all numbers of clients and of local
steps. The configuration is that of `base_recipe.py`. `tune` runs an arm's grid at seed 4, which
is none of the table's: all inner rates with one outer rate, then all outer rates with the best of
them; with --whole the whole of it. `run` takes the best rates, or those of the arm which it is a
change of. Every run appends a line to benchmarks/results/quality.jsonl; finished runs are not
repeated, so that it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import uneven_sites
from base_recipe import BASE
from quality_arms import Arm, Phase, Rates, arm_of, chosen, phases
from quality_plan import data_parallel, planned, points
from quality_setting import MODELS, SMOKE, SPLITS, STEPS, Setting
from quality_table import plots, table
from quality_tuning import SEED, choose, cross, expected, key, tried
from records import RESULTS, append, lines

import photon
from photon.errors import NonFiniteLoss, RoundFailed
from photon.run.results import TrainResult
from photon.run.run_folder import read_run

LOG = RESULTS / "quality.jsonl"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
TINY = Setting(SMOKE, clients=4, local_steps=4, steps=8)
SMOKE_ARMS = (
    "centralised", "alone", "asynchronous: a quarter 4x slower",
    "recipe: ends with short rounds",
)  # fmt: skip
"""One of each kind: the other federations differ in keys alone."""


@dataclass(frozen=True, slots=True)
class Run:
    """One that is asked for; `tuned` says where its rates are from, nothing while they are tried.

    Attributes:
        setting: the arm's own.
    """

    arm: str
    setting: Setting
    seed: int
    rates: Rates
    tuned: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a line of the log has of it."""
        return {
            "arm": self.arm,
            **asdict(self.setting),
            "seed": self.seed,
            "inner_rate": self.rates.inner,
            "outer_rate": self.rates.outer,
            "tuned": self.tuned,
        }

    def __str__(self) -> str:
        return f"{self.arm:<46} seed {self.seed}  {self.rates!s:<12}  {self.setting.title}"


def measure(run: Run) -> dict[str, Any]:
    """Train; its line of the log."""
    begun, arm = time.monotonic(), arm_of(run.arm)
    parts = phases(run.arm, run.setting, run.seed, run.rates)
    found: dict[str, Any] = {"val_loss": None}
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = outcome(arm, trained(arm, parts, Path(folder)))
        except (NonFiniteLoss, RoundFailed) as error:
            found["diverged"] = str(error)
    seconds = round(time.monotonic() - begun, 1)
    given = [part.overrides for part in parts]
    return {**run.facts, **found, "wall_seconds": seconds, "overrides": given}


def trained(arm: Arm, parts: Sequence[Phase], folder: Path) -> list[TrainResult]:
    """Run the phases of an arm, each from where the last one ended; the results."""
    results, before = [], []
    for number, part in enumerate(parts):
        place = [f"photon.saving_path={folder}", f"run_uuid=phase-{number}", *before]
        results.append(train(arm, [*BASE, *part.overrides, *place]))
        before = [f"photon.restore_run_uuid=phase-{number}"]
    return results


def train(arm: Arm, overrides: list[str]) -> TrainResult:
    if arm.slow is not None:
        return uneven_sites.train(overrides, arm.slow)
    return photon.train(overrides, centralized=arm.trains != "federated", progress=False)


def outcome(arm: Arm, results: Sequence[TrainResult]) -> dict[str, Any]:
    """What a run ends with: its loss, what was sent, and where it was on its way."""
    last = results[-1]
    score = last.federated or last.centralized or last.alone
    assert score is not None
    configs = [read_run(result.folder)[0] for result in results]
    return {
        "val_loss": score.val_loss,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "parameters": last.parameters,
        "bytes_up": last.bytes_up,
        "bytes_down": last.bytes_down,
        "data_parallel": data_parallel(configs[0]) if arm.trains == "federated" else None,
        "curve": points(last.history, planned(arm, configs)),
    }


def wanted(arguments: argparse.Namespace, records: Sequence[dict[str, Any]]) -> list[Run]:
    """What the log does not have of the runs that were asked for: all arms of a seed side by side,
    each once.
    """
    is_tuning, given = arguments.what == "tune", arguments.rates
    settings = [
        Setting(*one, arguments.steps)
        for one in product(
            arguments.models, arguments.splits, arguments.clients, arguments.local_steps
        )
    ]
    names = chosen(arguments.arms, with_reference=not (is_tuning or given))
    places = [(name, arm_of(name).placed(setting)) for setting in settings for name in names]
    runs = (
        [one for place in places for one in grid(*place, records, whole=arguments.whole)]
        if is_tuning
        else [
            reported(*place, seed, records, given) for seed in arguments.seeds for place in places
        ]
    )
    done = {key(record) for record in records}
    return [run for run in dict.fromkeys(runs) if key(run.facts) not in done]


def grid(
    name: str, setting: Setting, records: Sequence[dict[str, Any]], *, whole: bool
) -> list[Run]:
    """An arm's, as far as it is known."""
    arm = arm_of(name)
    all_rates = arm.grid if whole else cross(arm, tried(records, name, setting))
    return [Run(name, setting, SEED, rates) for rates in all_rates]


def reported(
    name: str, setting: Setting, seed: int, records: Sequence[dict[str, Any]], given: Rates | None
) -> Run:
    """
    Args:
        given: rates in place of the best that are known.
    """
    if given is not None:
        if (given.outer is not None) != bool(arm_of(name).outer):
            raise ValueError(
                f"--rates {given}: {name} has {'an' if arm_of(name).outer else 'no'} outer rate"
            )
        return Run(name, setting, seed, given, "given")
    choice = choose(records, name, setting)
    return Run(name, setting, seed, choice.rates, choice.how)


def rates_in(text: str) -> Rates:
    """Those of a text, as `Rates` is shown."""
    inner, _, outer = text.partition("/")
    return Rates(float(inner), float(outer) if outer else None)


def run_all(arguments: argparse.Namespace) -> None:
    """Run what the log has not, and say before how long it will take; what follows from that too,
    where the second half of a grid depends on the first.
    """
    ends = time.monotonic() + 60 * arguments.minutes
    while runs := wanted(arguments, lines(arguments.log)):
        guess = guessed(runs, lines(arguments.log))
        minutes = f"about {sum(guess.values()) / 60:.0f} minutes on 2 cores"
        more = 0 if arguments.what == "run" or arguments.whole else following(runs)
        print(f"{len(runs)} runs, {minutes}" + f"; {more} more follow" * (more > 0), flush=True)
        for run in runs:
            if arguments.list:
                print(f"{run}  {guess[run]:.0f} s")
            elif time.monotonic() + guess[run] <= ends:
                append(arguments.log, told(run, measure(run)))
        if arguments.list or time.monotonic() + min(guess.values()) > ends:
            return


def following(runs: Sequence[Run]) -> int:
    """Runs of grids whose first half is not over, that follow from it."""
    begun = {(run.arm, run.setting) for run in runs if run.rates.outer == arm_of(run.arm).first[1]}
    return sum(max(0, len(arm_of(name).outer) - 1) for name, _ in begun)


def guessed(runs: Sequence[Run], records: Sequence[dict[str, Any]]) -> dict[Run, float]:
    """Seconds that each will take."""
    return {run: expected(records, run.arm, run.setting) for run in runs}


def told(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    """The record, after it has been shown."""
    loss = "diverged" if record["val_loss"] is None else f"{record['val_loss']:.4f}"
    print(f"{run}  {loss}  {record['wall_seconds']:.0f} s", flush=True)
    return record


def smoke() -> None:
    """A run of every kind."""
    records: list[dict[str, Any]] = []
    for name in SMOKE_ARMS:
        arm = arm_of(name)
        run = Run(name, arm.placed(TINY), 1, Rates(*arm.first), "not tuned")
        records.append(told(run, measure(run)))
    print(table(records))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "tune", "table"], nargs="?", default="run")
    parser.add_argument("arms", nargs="*", help="names, or parts; `centralised` is run too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--clients", type=int, nargs="+", default=[8])
    parser.add_argument("--local-steps", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run, in sequence")
    parser.add_argument("--splits", choices=SPLITS, nargs="+", default=["iid"])
    parser.add_argument("--models", choices=[m for m in MODELS if m != SMOKE], nargs="+",
                        default=["tiny"])  # fmt: skip
    parser.add_argument("--rates", type=rates_in, metavar="INNER[/OUTER]",
                        help="run: these, and without the centralised run beside it")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--list", action="store_true", help="say what would be run; run nothing")
    parser.add_argument("--whole", action="store_true", help="tune: the whole grid, not a cross")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--log", type=Path, default=LOG)
    arguments = parser.parse_args()
    try:
        if arguments.smoke:
            smoke()
        elif arguments.what == "table":
            print(table(lines(arguments.log)))
            print(*plots(lines(arguments.log), IMAGES), sep="\n")
        else:
            run_all(arguments)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
