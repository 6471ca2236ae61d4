"""Three small models, each federated and centralised, on tokens in proportion to their size."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from base_recipe import BASE
from quality_arms import CENTRALISED, RECIPE, Rates, arm_of, phases
from quality_setting import SMOKE, Setting

import photon
from photon.errors import NonFiniteLoss, RoundFailed

ARMS = (CENTRALISED, RECIPE)
TUNING = 4
"""Seed at which rates are compared; no law is fitted to it."""
USUAL = 0.018
"""The rate of a size that was not tuned."""
RATES = (0.012, USUAL, 0.027)


@dataclass(frozen=True, slots=True)
class Size:
    """A Llama's.

    Attributes:
        steps: of a run, about three tokens for each parameter.
        seconds: that a run takes on two cores, about.
    """

    width: int
    heads: int
    layers: int
    hidden: int
    steps: int
    seconds: float

    def overrides(self) -> list[str]:
        shape = {"d_model": self.width, "n_heads": self.heads, "n_layers": self.layers,
                 "ffn_hidden_size": self.hidden}  # fmt: skip
        return [f"llm_config.model.{key}={value}" for key, value in shape.items()]


SIZES = {
    "0.24M": Size(64, 2, 2, 192, 176, 25.0),
    "0.53M": Size(96, 3, 3, 256, 384, 75.0),
    "1.07M": Size(128, 4, 4, 352, 784, 280.0),
}
"""4096 tokens in a step, whoever takes part; the largest reads the text once."""


@dataclass(frozen=True, slots=True)
class Run:
    size: str
    arm: str
    seed: int
    rate: float

    @property
    def facts(self) -> dict[str, Any]:
        """What a line of the log has of it."""
        return {"part": "run", "size": self.size, "arm": self.arm, "seed": self.seed,
                "rate": self.rate}  # fmt: skip

    def overrides(self) -> list[str]:
        """As `quality.py` runs the arm, with another shape and length."""
        setting = arm_of(self.arm).placed(Setting(steps=SIZES[self.size].steps))
        rates = Rates(self.rate, arm_of(self.arm).first[1])
        (part,) = phases(self.arm, setting, self.seed, rates)
        return [*BASE, *part.overrides, *SIZES[self.size].overrides()]


def wanted(
    records: Sequence[Mapping[str, Any]], sizes: Iterable[str], seeds: Iterable[int],
    rates: Sequence[float] = (),
) -> list[Run]:  # fmt: skip
    """What the log does not have, the smallest first.

    Args:
        rates: to be tried; else each size and arm has its best.
    """
    runs = [
        Run(size, arm, seed, rate)
        for size in sizes
        for seed in seeds
        for arm in ARMS
        for rate in rates or [best_rate(records, size, arm)]
    ]
    done = [{key: record.get(key) for key in runs[0].facts} for record in records] if runs else []
    return [run for run in runs if run.facts not in done]


def best_rate(records: Iterable[Mapping[str, Any]], size: str, arm: str) -> float:
    """Of those that were tried at the tuning seed; the usual one before all were."""
    losses = {
        one["rate"]: loss_of(one)
        for one in records
        if one["part"] == "run"
        and (one["size"], one["arm"], one["seed"]) == (size, arm, TUNING)
    }  # fmt: skip
    return min(losses, key=losses.__getitem__) if set(RATES) <= set(losses) else USUAL


def loss_of(record: Mapping[str, Any]) -> float:
    """Infinite where it diverged."""
    return math.inf if record["val_loss"] is None else record["val_loss"]


def expected(run: Run, records: Iterable[Mapping[str, Any]]) -> float:
    """Seconds that it will take."""
    took = [
        one["wall_seconds"]
        for one in records
        if one["part"] == "run" and (one["size"], one["arm"]) == (run.size, run.arm)
    ]
    return statistics.median(took) if took else SIZES[run.size].seconds


def measure(run: Run, more: Sequence[str] = ()) -> dict[str, Any]:
    """Train; its line of the log."""
    begun, found = time.monotonic(), {"val_loss": None}
    overrides = [*run.overrides(), *more]
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = outcome(run.arm, [*overrides, f"photon.saving_path={folder}"])
        except (NonFiniteLoss, RoundFailed) as error:
            found["diverged"] = str(error)
    took = round(time.monotonic() - begun, 1)
    return {**run.facts, **found, "wall_seconds": took, "overrides": overrides}


def outcome(arm: str, overrides: list[str]) -> dict[str, Any]:
    result = photon.train(overrides, centralized=arm == CENTRALISED, progress=False)
    score = result.federated or result.centralized
    assert score is not None
    return {
        "val_loss": score.val_loss,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "parameters": result.parameters,
        "bytes": result.bytes_up + result.bytes_down,
    }


def smoke() -> list[dict[str, Any]]:
    """One of each arm, tiny."""
    tiny = [*Setting(SMOKE, clients=2).overrides(), "llm_config.local_steps=2", "fl.n_rounds=2",
            "llm_config.max_duration=4ba", "llm_config.scheduler.schedulers.lr.t_max=4ba",
            "llm_config.global_train_batch_size=4",
            "llm_config.eval_subset_num_batches=2"]  # fmt: skip
    return [measure(Run("0.24M", arm, 1, USUAL), tiny) for arm in ARMS]
