"""What `links.py` compares over links: ways of training, each as a run, a curve and a forecast."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import links_ddp
import quality
import simulate
from base_recipe import BASE
from compression_arms import named
from quality_arms import CENTRALISED, QUICKSTART, Phase, Rates, arm_of, phases
from quality_plan import MBIT
from quality_setting import Setting
from shaped import PLAIN, STEADY, Case, Churn, Shape, Site, measure, prepared

from photon.config import Config
from photon.core.walltime import LinkSpeed
from photon.data.prepare.embedded import prepare_embedded
from photon.experiment.plan import Estimate, make_estimate
from photon.experiment.plan import Setting as Sites

DDP, PLAIN_ARM, COMPRESSED, OVERLAPPED = "DDP", "plain", "compressed", "overlapped"
TRAINED_AS = {
    DDP: CENTRALISED,
    PLAIN_ARM: "rung: bf16",
    COMPRESSED: QUICKSTART,
    OVERLAPPED: f"overlap: 1 step + {QUICKSTART}",
}
"""Arm -> that of `quality.py` whose configuration it has."""
SAME_MACHINE = {PLAIN_ARM: PLAIN_ARM, COMPRESSED: COMPRESSED, OVERLAPPED: COMPRESSED}
"""Arm -> that whose nodes and server take as long beside steps, and wait for it."""
FAST = 1e12


@dataclass(frozen=True, slots=True)
class Link:
    """Of each site, both ways."""

    mbit: float
    milliseconds: float

    @property
    def shape(self) -> Shape:
        return Shape(delay=self.milliseconds / 1000, rate=self.mbit * MBIT)

    def __str__(self) -> str:
        return f"{self.mbit:g} Mbit/s, {self.milliseconds:g} ms"


@dataclass(frozen=True, slots=True)
class Length:
    """How long runs over links are.

    Attributes:
        setting: of the whole run, whose curve is taken.
        step_seconds: that a step takes at least.
        rounds: of a run of Photon over a link; its first one does not count.
        ddp_steps: of a run of DDP over a link.
        kill_rounds, kill_every: of a run whose nodes are killed; seconds in the mean.
    """

    setting: Setting
    step_seconds: float
    rounds: int
    ddp_steps: int
    kill_rounds: int
    kill_every: float = 20.0


@dataclass(frozen=True, slots=True)
class LinkCase(Case):
    """A case with the configuration of an arm of `quality.py`."""

    own: tuple[str, ...] = ()

    def keys(self) -> list[str]:
        return [*BASE, *self.own, *STEADY, f"photon.n_nodes={len(self.sites)}",
                f"fl.n_rounds={self.rounds}", *self.overrides]  # fmt: skip


def case_of(arm: str, link: Link | None, length: Length, seed: int) -> LinkCase:
    """A run of Photon over a link; without one where it is None."""
    site = Site(length.step_seconds, PLAIN if link is None else link.shape)
    own = tuple(_phase(arm, length.setting, seed).overrides)
    return LinkCase([site] * length.setting.clients, length.rounds, seed=seed, own=own)


def _phase(arm: str, setting: Setting, seed: int) -> Phase:
    name = TRAINED_AS[arm]
    placed = arm_of(name).placed(setting)
    (phase,) = phases(name, placed, seed, Rates(*arm_of(name).first))
    return phase


def curve(arm: str, setting: Setting, seed: int) -> list[dict[str, float]]:
    """Validation losses of the whole run after every round, whatever carries it."""
    phase = _phase(arm, setting, seed)
    is_ddp = arm == DDP
    often = [f"llm_config.eval_interval={setting.local_steps}ba" if is_ddp else "fl.eval_period=1"]
    with tempfile.TemporaryDirectory() as folder:
        often_told = replace(phase, overrides=[*phase.overrides, *often])
        (result,) = quality.trained(arm_of(TRAINED_AS[arm]), [often_told], Path(folder))
    return [{key: one[key] for key in ("step", "tokens", "val_loss")}
            for one in result.history if "val_loss" in one]  # fmt: skip


def machine(arm: str, length: Length, seed: int) -> dict[str, float]:
    """Seconds of a round beside its steps and transfers, from a run without shaped links."""
    case = case_of(arm, None, length, seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        node, server = simulate.beside_steps(case, home, prepared(home / "data", case))
    return {"node": node, "server": server}


def over(
    arm: str, link: Link, length: Length, seed: int, beside: dict[str, float]
) -> dict[str, Any]:
    """A run over a link beside what was predicted of it."""
    if arm == DDP:
        return over_ddp(link, length, seed)
    case = case_of(arm, link, length, seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = prepared(home / "data", case)
        sites = simulate.links_of(case, beside["node"], beside["server"])
        simulated = simulate.predict(case, sites, home / "predicted", data)
        (home / "real").mkdir()
        real = measure(case, home / "real", data)
    plan = estimate(case.config(), link, length, sum(beside.values())).federated
    steps = length.setting.local_steps
    return {
        "step_seconds": real.round_seconds / steps,
        "step_bytes": (real.bytes_up + real.bytes_down) / (real.rounds * steps),
        "planned": plan.round_seconds / steps,
        "simulated": simulated["round_seconds"] / steps,
        "planned_bytes": plan.round_bytes / steps,
        "utilization": real.utilization,
    }


def over_ddp(link: Link, length: Length, seed: int) -> dict[str, Any]:
    """The same in plain torch; the simulator has no data-parallel runs."""
    case = case_of(PLAIN_ARM, link, length, seed)
    config = case.config()
    with tempfile.TemporaryDirectory() as folder:
        keys = [*case.keys(), f"dataset.train.root_local={folder}"]
        prepare_embedded(Path(folder), config.data.embedded, len(case.sites),
                         config.inner.row_length)  # fmt: skip
        work = links_ddp.Work(keys, len(case.sites), length.ddp_steps, length.step_seconds)
        real = links_ddp.measure(work, link.shape)
    plan = estimate(config, link, length, 0.0).data_parallel
    return {
        "step_seconds": real.step_seconds,
        "step_bytes": real.step_bytes,
        "planned": plan.round_seconds,
        "planned_bytes": plan.round_bytes,
        "utilization": length.step_seconds / real.step_seconds,
        "compute_seconds": real.compute_seconds,
    }


def estimate(config: Config, link: Link, length: Length, floor: float) -> Estimate:
    """By `photon plan`'s arithmetic, with a server that is never the bottleneck."""
    speed = LinkSpeed(up=link.shape.rate or FAST, down=link.shape.rate or FAST,
                      latency=link.shape.delay)  # fmt: skip
    tokens = config.inner.tokens_per_step / length.step_seconds
    return make_estimate(config, Sites(
        link=speed, server=LinkSpeed(up=FAST, down=FAST), floor=floor, tokens_per_second=tokens,
    ))  # fmt: skip


def killed(arm: str, link: Link, length: Length, seed: int) -> dict[str, Any]:
    """A run whose nodes are killed with -9 and come back a second later."""
    case = replace(case_of(arm, link, length, seed), rounds=length.kill_rounds,
                   churn=Churn(length.kill_every, back_after=1.0))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        found = asdict(measure(case, Path(folder), prepared(Path(folder) / "data", case)))
    kept = ("goodput", "utilization", "kills", "seconds", "rounds", "round_seconds")
    return {**{name: found[name] for name in kept}, "kill_every": length.kill_every}


def chosen(patterns: Sequence[str]) -> list[str]:
    """Arms whose names hold one of these; all without any.

    Raises:
        ValueError: a text that no arm's name holds.
    """
    wanted = {arm for text in patterns or [""] for arm in named(text, TRAINED_AS)}
    return [arm for arm in TRAINED_AS if arm in wanted]
