"""What two lying clients of eight do to a model, by the way of merging, beside a run without them.

    python benchmarks/poison.py                                  all lies, all settings, three seeds
    python benchmarks/poison.py --attacks flipped zero --settings mean krum --seeds 1
    python benchmarks/poison.py --also "both=fl.scoring.enabled=true fl.aggregation=median"
    python benchmarks/poison.py --smoke                          tiny runs, whose lines are not kept
    python benchmarks/poison.py --table                          what the log has

Everything of a run is real: the quickstart with longer rounds (`long_rounds.py`), and the last
quarter of its clients sends something else than it has trained (`liars.py`). Every run appends a
line to benchmarks/results/poison.jsonl; finished runs are not repeated, so that it can be stopped
and started again. Losses are compared with those of the default settings without the liars, seed by
seed. Where every answer of a liar was refused, the parameters must be those of the same settings
without the liars, bit for bit; the exit code is 1 if they are not.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from compression import sums
from compression_arms import of_seed
from compression_table import percents
from liars import ABSENT, LIES, SHUFFLED, lying
from long_rounds import LONG_ROUNDS
from records import RESULTS, append, lines

from photon.container.container import digest
from photon.errors import NonFiniteLoss, RoundFailed
from photon.experiment import experiment
from photon.run import checkpoint
from photon.run.preparation import config_of_run
from photon.run.trackers import read_lines

LOG = RESULTS / "poison.jsonl"
REFERENCE = "mean"
SETTINGS: dict[str, list[str]] = {
    REFERENCE: [],
    "median": ["fl.aggregation=median"],
    "trimmed_mean": ["fl.aggregation=trimmed_mean"],
    "centred_clip": ["fl.aggregation=centred_clip"],
    "krum": ["fl.aggregation=krum"],
    "scored": ["fl.scoring.enabled=true"],
}
"""Name -> overrides beyond the recipe."""
BELIEVED = ("copied", "flipped", "flipped x3", "stale", "zero", SHUFFLED)
"""Lies that the default settings do not look for: `docs/concepts/robust.md` says what does."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the runs are.

    Attributes:
        overrides: the recipe, and what makes its runs small.
    """

    clients: int
    overrides: tuple[str, ...]

    @property
    def liars(self) -> range:
        return range(self.clients - self.clients // 4, self.clients)

    @property
    def common(self) -> list[str]:
        """Whoever is refused or absent leaves a round that goes on without it."""
        return [
            *self.overrides,
            f"fl.n_total_clients={self.clients}",
            f"fl.quorum={self.clients // 2 + 1}",
        ]


QUICKSTART = Scale(8, LONG_ROUNDS)
SMOKE = Scale(4, ("recipe=smoke", "fl.n_rounds=2", "llm_config.local_steps=2"))


def run(attack: str, setting: str, seed: int, overrides: list[str], scale: Scale) -> dict[str, Any]:
    """Train an arm; its line of the log."""
    found: dict[str, Any] = {"attack": attack, "setting": setting, "seed": seed}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = [f"photon.saving_path={folder}", "run_uuid=arm"]
        alone = ["photon.workers=0"] if attack == SHUFFLED else []
        given = [*scale.common, *of_seed(seed), *overrides, *place, *alone]
        try:
            experiment.train(
                config_of_run(given, "federated", lambda line: None),
                engine=lying(attack, scale.liars),
            )
        except (NonFiniteLoss, RoundFailed) as error:
            found["ended"] = str(error)
        records = read_lines(Path(folder) / "arm" / "metrics.jsonl")
        newest = checkpoint.newest_checkpoint(Path(folder) / "arm" / "checkpoints")
        found["digest"] = digest(checkpoint.load_parameters(newest))
    loss = None if "ended" in found else sums(records)["val_loss"]
    seconds = round(time.monotonic() - begun, 1)
    return {**found, "val_loss": loss, **answers(records, scale.liars), "wall_seconds": seconds}


def answers(records: list[dict[str, Any]], liars: range) -> dict[str, Any]:
    """What became of the liars' answers, and of the others' that were refused: their numbers."""
    refused = [(int(client), why) for r in records for client, why in r.get("refused", {}).items()]
    taken = [client for r in records for client in r.get("accepted", [])]
    reasons: dict[str, int] = {}
    for client, why in refused:
        if client in liars:
            reasons[why] = reasons.get(why, 0) + 1
    return {
        "liars_taken": sum(client in liars for client in taken),
        "liars_refused": sum(client in liars for client, _ in refused),
        "honest_refused": sum(client not in liars for client, _ in refused),
        "reason": max(reasons, key=lambda why: reasons[why]) if reasons else "",
    }


def key(record: Mapping[str, Any]) -> tuple[str, str, int]:
    return record["attack"], record["setting"], record["seed"]


def planned(attacks: list[str], settings: list[str], seeds: list[int]) -> Iterator[tuple]:
    """The arms in their order; of a seed first those without liars, for the others to compare."""
    for seed in seeds:
        controls = product([ABSENT], dict.fromkeys([REFERENCE, *settings]))
        rest = product([attack for attack in attacks if attack != ABSENT], settings)
        yield from ((attack, setting, seed) for attack, setting in [*controls, *rest])


def table(records: list[dict[str, Any]]) -> str:
    """Each attack and setting: the loss beside the control's, and what became of the lies."""
    by_key = {key(record): record for record in records}
    heads = ["attack", "setting", "loss", "above the control", "refused", "parameters", "reason"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for attack, setting in dict.fromkeys(key(record)[:2] for record in records):
        own = [r for r in records if (r["attack"], r["setting"]) == (attack, setting)]
        losses = [r["val_loss"] for r in own]
        ratios = [ratio for r in own if (ratio := beside_control(r, by_key)) is not None]
        cells = [
            attack,
            setting,
            ", ".join("none" if loss is None else f"{loss:.3f}" for loss in losses),
            above_control([ratio - 1 for ratio in ratios]),
            f"{sum(r['liars_refused'] for r in own)} of "
            f"{sum(r['liars_refused'] + r['liars_taken'] for r in own)}",
            verdict(own, by_key),
            own[0].get("ended") or own[0]["reason"],
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def above_control(above: list[float]) -> str:
    """By how much losses are above their controls', and how many runs ended without one."""
    known = [one for one in above if math.isfinite(one)]
    ended = f"{len(above) - len(known)} of {len(above)} ended" if len(known) < len(above) else ""
    return ", ".join(filter(None, (percents(known), ended)))


def beside_control(
    record: Mapping[str, Any], by_key: Mapping[tuple, dict[str, Any]]
) -> float | None:
    """A run's loss over that of the default settings without the liars; infinite where it ended,
    None where the other is not there, or ended.
    """
    control = by_key.get((ABSENT, REFERENCE, record["seed"]))
    if control is None or control["val_loss"] is None:
        return None
    return record["val_loss"] / control["val_loss"] if record["val_loss"] else math.inf


def verdict(own: list[dict[str, Any]], by_key: Mapping[tuple, dict[str, Any]]) -> str:
    """Whether the parameters are those without liars, where these were all refused."""
    said = set()
    for record in own:
        control = by_key.get((ABSENT, record["setting"], record["seed"]))
        if record["attack"] == ABSENT or control is None or record["liars_taken"]:
            continue
        said.add("same" if control["digest"] == record["digest"] else "OTHER")
    return " and ".join(sorted(said))


def also(text: str) -> tuple[str, list[str]]:
    """A setting of one's own: its name and overrides."""
    name, _, overrides = text.partition("=")
    if not overrides:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=KEY=VALUE ...")
    return name, overrides.split()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--attacks", nargs="+", choices=LIES, default=list(LIES))
    parser.add_argument("--settings", nargs="+", help="default: all")
    parser.add_argument("--also", type=also, action="append", default=[], metavar="NAME=OVERRIDES")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--keys", nargs="+", default=[], help="overrides of all runs")
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--table", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    settings = SETTINGS | dict(arguments.also)
    chosen = arguments.settings or list(settings)
    if unknown := set(chosen) - set(settings):
        parser.error(f"no setting is named {unknown.pop()!r}; there are {', '.join(settings)}")
    scale = SMOKE if arguments.smoke else QUICKSTART
    records = [] if arguments.smoke else lines(arguments.log)
    done = {key(record) for record in records}
    wanted = [] if arguments.table else planned(arguments.attacks, chosen, arguments.seeds)
    for arm in wanted:
        if arm in done:
            continue
        record = run(*arm, [*settings[arm[1]], *arguments.keys], scale)
        records.append(record)
        print(shown(record), file=sys.stderr, flush=True)
        if not arguments.smoke:
            append(arguments.log, record)
    print(found := table(records))
    return 1 if "OTHER" in found else 0


def shown(record: Mapping[str, Any]) -> str:
    loss = "none" if record["val_loss"] is None else f"{record['val_loss']:.4f}"
    told = f"refused {record['liars_refused']}, taken {record['liars_taken']}"
    return f"{key(record)}  {loss}  {told}  {record['wall_seconds']:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
