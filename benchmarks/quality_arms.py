"""What `quality.py` compares: ways of training one model on text in several places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compression_arms import RECIPES, named, seeded, ways
from gate import FEDAVG
from quality_setting import Setting

INNER_RATES = (0.018, 0.027, 0.036)
BASELINE_RATES = (0.012, 0.018, 0.027)
"""A mean of clients wants larger steps than what it is compared with."""
ADAMW_RATES = (0.004, 0.008, 0.016)
OUTER_RATES = (0.7, 1.0, 1.3)
DILOCO_RATES = (0.2, 0.4, 0.7)
"""With a momentum of 0.9 each pseudo-gradient moves ten times as far in the end."""
ETAS = (0.005, 0.01, 0.02)
"""Of FedAdam: what an element moves in a round, at most."""
QUICKSTART = "recipe: seldom averaged squares"
"""The arm that is the quickstart as it is."""
SGD, ADAPTIVE = "server_learning_rate", "eta"
RECIPE, CENTRALISED, ALONE = "recipe", "centralised", "alone"


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of training, beyond `base_recipe.py`.

    Attributes:
        keys: overrides; {steps}, {rounds} and parts of them are filled in, see `_lengths`.
        trains: what is trained.
        inner: learning rates of the grid. outer: outer rates of it; none: there is no such rate, or
            it is a part of the arm's name. first: those of a run that nothing was tuned for.
        outer_key: by which the outer rate is given.
        tuned_as: the arm whose rates are taken where this one's were not tuned.
        fragments: groups of parameters in turn; rounds are as much shorter.
        often: rounds are so much shorter still.
        ends: how much shorter the rounds of the last quarter are.
        slow: share of the clients that are four times slower, on the simulator's clock; None: not
            simulated.
    """

    keys: tuple[str, ...] = ()
    trains: Literal["federated", "centralised", "alone"] = "federated"
    inner: tuple[float, ...] = INNER_RATES
    outer: tuple[float, ...] = OUTER_RATES
    first: tuple[float, float | None] = (0.027, 1.0)
    outer_key: str = SGD
    tuned_as: str | None = None
    fragments: int = 1
    often: int = 1
    ends: int = 1
    slow: float | None = None

    @property
    def grid(self) -> list[Rates]:
        """Every arm's has the same shape: three inner rates by three outer ones, where it has an
        outer one.
        """
        return [Rates(lr, outer) for lr in self.inner for outer in self.outer or (None,)]

    def placed(self, setting: Setting) -> Setting:
        """The setting without what says nothing of this arm, so that it is run once."""
        places = {"centralised": setting.joined, "alone": setting.apart}
        return places[self.trains]() if self.trains in places else setting


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of a run; without outer rate where the arm has none that is tuned."""

    inner: float
    outer: float | None = None

    def __str__(self) -> str:
        return f"{self.inner:g}" if self.outer is None else f"{self.inner:g} / {self.outer:g}"


USUAL = tuple(RECIPES["averaged"][1:])
"""Decay rates of inner moments as in centralised training, which the recipe changes."""
KEPT = (*USUAL, "fl.aggregate_momenta=false", "fl.compression=bf16")
ADAMW = ("llm_config.optimizer.name=adamw",)
NESTEROV = ("fl.strategy_kwargs.server_momentum=0.9",)
FEDADAM = (
    "fl.strategy_name=fedadam",
    "fl.strategy_kwargs.server_learning_rate=null",
    "fl.strategy_kwargs.server_momentum=null",
)


def outer_of_ours(name: str, *keys: str) -> tuple[str, ...]:
    """An outer optimizer of `quality_outer.py`."""
    return (f"fl.strategy_name=quality_outer:{name}", *keys)


def like_recipe(*keys: str, **more: object) -> Arm:
    """A change of the recipe."""
    return replace(Arm(keys=keys, tuned_as=RECIPE), **more)  # pyright: ignore[reportArgumentType]


SQUARES = (
    "fl.aggregate_momenta=true",
    "fl.compression.moments=int4",
    "fl.first_moment_period={rounds}",
)
"""The second moments are averaged; the first ones in the last round, where that changes nothing."""
SCHEDULE = "llm_config.scheduler.schedulers.lr"
MAIN: dict[str, Arm] = {
    CENTRALISED: Arm(USUAL, "centralised", BASELINE_RATES, (), (0.018, None)),
    "centralised: the recipe's moments": Arm((), "centralised", BASELINE_RATES, (), (0.018, None)),
    ALONE: Arm((), "alone", BASELINE_RATES, (), (0.018, None)),
    "FedAvg": Arm((*KEPT, *FEDAVG), outer=(), first=(0.027, None)),
    "DiLoCo": Arm((*KEPT, *NESTEROV), outer=DILOCO_RATES, first=(0.027, 0.7)),
    "FedAdam": Arm((*KEPT, *FEDADAM), outer=ETAS, first=(0.027, 0.01), outer_key=ADAPTIVE),
    RECIPE: Arm(),
    "AdamW: centralised": Arm((*USUAL, *ADAMW), "centralised", ADAMW_RATES, (), (0.008, None)),
    "AdamW: DiLoCo": Arm((*KEPT, *NESTEROV, *ADAMW), inner=ADAMW_RATES, first=(0.008, 0.7)),
}
RUNGS: dict[str, Arm] = {
    "rung: bf16": like_recipe("fl.compression=bf16"),
    "rung: int4 / int4": like_recipe(*ways("int4", "int4")),
    "rung: uniform:50/15 / uniform:50/15": like_recipe(*ways("uniform:50/15", "uniform:50/15")),
    "rung: int1 / int4": like_recipe(*ways("int1", "int4")),
    "rung: topk:300/4096/1 / topk:480/4096/1": like_recipe(
        *ways("topk:300/4096/1", "topk:480/4096/1")
    ),
}
MODES: dict[str, Arm] = {
    "overlap: 1 step": like_recipe("fl.overlap=delayed", "fl.overlap_steps=1"),
    "overlap: 1 step, fragments 2": like_recipe(
        "fl.overlap=delayed", "fl.overlap_steps=1", fragments=2
    ),
    "asynchronous: equal speeds": like_recipe("fl.mode=async", slow=0.0),
    "asynchronous: a quarter 4x slower": like_recipe("fl.mode=async", slow=0.25),
}
SEARCH: dict[str, Arm] = {
    "recipe: warm-up of a quarter": like_recipe(f"{SCHEDULE}.t_warmup={{quarter}}ba"),
    "recipe: short warm-up": like_recipe(f"{SCHEDULE}.t_warmup={{little}}ba"),
    "recipe: falls to 0": like_recipe(f"{SCHEDULE}.alpha_f=0.0"),
    "recipe: falls in the last half": like_recipe(
        f"{SCHEDULE}.name=constant_with_linear_cooldown_with_warmup",
        f"{SCHEDULE}.t_cooldown={{half}}ba",
        f"{SCHEDULE}.alpha_f=0.0",
    ),
    "recipe: outer rate warms up": like_recipe("fl.outer_schedule.t_warmup={few_rounds}"),
    "recipe: outer rate falls": like_recipe(
        "fl.outer_schedule.name=cosine", "fl.outer_schedule.alpha_f=0.3"
    ),
    "recipe: outer momentum 0.4": like_recipe("fl.strategy_kwargs.server_momentum=0.4"),
    "recipe: outer momentum 0.8": like_recipe("fl.strategy_kwargs.server_momentum=0.8"),
    "recipe: outer momentum rises": like_recipe(*outer_of_ours("rising")),
    "recipe: quasi-hyperbolic": like_recipe(
        *outer_of_ours("quasi_hyperbolic", "fl.strategy_kwargs.server_momentum=0.9"),
        "fl.strategy_kwargs.share=0.15",
    ),
    "recipe: embedding moves less": like_recipe(
        *outer_of_ours("by_layer"), "fl.strategy_kwargs.embedding=0.7"
    ),
    "recipe: embedding moves more": like_recipe(
        *outer_of_ours("by_layer"), "fl.strategy_kwargs.embedding=1.3"
    ),
    "recipe: uniform:110/7 / uniform:80/11": like_recipe(*ways("uniform:110/7", "uniform:80/11")),
    "recipe: radial": like_recipe("fl.aggregation=rda"),
    "recipe: normed": like_recipe("fl.aggregation=normed"),
    "recipe: fragments 2": like_recipe(fragments=2),
    "recipe: fragments 4": like_recipe(fragments=4),
    "recipe: fragments 2, twice as often": like_recipe(fragments=2, often=2),
    "recipe: keeps a quarter of its own": like_recipe("fl.fragment_alpha=0.25"),
    "recipe: moments averaged": like_recipe("fl.aggregate_momenta=true", *USUAL),
    "recipe: moments averaged in int4, every 4 rounds": like_recipe(
        "fl.aggregate_momenta=true",
        "fl.compression.moments=int4",
        "fl.first_moment_period=4",
        "fl.second_moment_period=4",
    ),
    "recipe: squares averaged in int4": like_recipe(*SQUARES),
    "recipe: squares averaged in int4, every 4 rounds": like_recipe(
        *SQUARES, "fl.second_moment_period=4"
    ),
    "recipe: squares averaged in int4, every 8 rounds": like_recipe(
        *SQUARES, "fl.second_moment_period=8"
    ),
    "recipe: squares averaged in int2, every 10 rounds": like_recipe(
        *SQUARES, "fl.compression.moments=int2", "fl.second_moment_period=10"
    ),
    "recipe: squares averaged in int4, every 13 rounds": like_recipe(
        *SQUARES, "fl.second_moment_period=13"
    ),
    "recipe: uniform:114/7 / uniform:82/11": like_recipe(*ways("uniform:114/7", "uniform:82/11")),
    QUICKSTART: like_recipe(
        *ways("uniform:112/7", "uniform:79/11"),
        "fl.aggregate_momenta=null",
        "fl.first_moment_period=null",
        "fl.second_moment_period=10",
        "fl.compression.moments=int2",
    ),
    "recipe: shorter memory": like_recipe(
        "llm_config.optimizer.momentum=0.7", "llm_config.optimizer.betas=[0.7,0.999]"
    ),
    "recipe: longer memory": like_recipe(
        "llm_config.optimizer.momentum=0.9", "llm_config.optimizer.betas=[0.9,0.999]"
    ),
    "recipe: average of rounds": like_recipe("fl.ema_decay=0.7"),
    "recipe: average of many rounds": like_recipe("fl.ema_decay=0.95"),
    "recipe: no weight decay": like_recipe("llm_config.optimizer.weight_decay=0"),
    "recipe: ends with short rounds": like_recipe(ends=4),
}
"""Of what was thought of, what there are keys for."""
ARMS: dict[str, Arm] = {**MAIN, **RUNGS, **MODES, **SEARCH}
AND = " + "


def arm_of(name: str) -> Arm:
    """The arm of that name; of `recipe: A + recipe: B` all changes together."""
    first, *others = (ARMS[part] for part in name.split(AND))
    for other in others:
        first = replace(
            first,
            keys=(*first.keys, *other.keys),
            fragments=first.fragments * other.fragments,
            often=first.often * other.often,
            ends=first.ends * other.ends,
        )
    return first


def is_known(name: str) -> bool:
    """Whether there is (still) such an arm."""
    return all(part in ARMS for part in name.split(AND))


def place_of(name: str) -> int:
    """Where it stands in a table."""
    return list(ARMS).index(name.split(AND)[0])


def chosen(patterns: Sequence[str], *, with_reference: bool = True) -> list[str]:
    """Arms of these names, or whose names hold these, or `A + B`; without any the main ones, rungs
    and modes.

    Args:
        with_reference: with what all are compared with.

    Raises:
        ValueError: a text that no arm's name holds, or a sum of what are no changes of the recipe.
    """
    wanted = {name for text in patterns for name in _named(text)}
    wanted = wanted or {*MAIN, *RUNGS, *MODES}
    wanted |= {CENTRALISED} if with_reference else set()
    return sorted(wanted, key=lambda name: (place_of(name), name))


def _named(text: str) -> list[str]:
    if AND in text:
        parts = [part if part in ARMS else f"{RECIPE}: {part}" for part in text.split(AND)]
        if wrong := [part for part in parts if not _changes_recipe(part)]:
            raise ValueError(
                f"{text!r}: {wrong[0]!r} is no change of the recipe, by its whole name"
            )
        return [AND.join(parts)]
    return [text] if text in ARMS else named(text, ARMS)


def _changes_recipe(name: str) -> bool:
    """Whether an arm is no more than keys and lengths of rounds, which go with those of others."""
    return name in ARMS and ARMS[name].tuned_as == RECIPE and ARMS[name].slow is None


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run with rounds of one length; nearly all have one.

    Attributes:
        overrides: everything but its folder and what it goes on from.
        rounds: at its end, from the run's beginning.
        local_steps: of its rounds.
    """

    overrides: list[str] = field(repr=False)
    rounds: int
    local_steps: int


def phases(name: str, setting: Setting, seed: int, rates: Rates) -> list[Phase]:
    """What an arm is trained with, in a setting that is its own (`Arm.placed`)."""
    arm = arm_of(name)
    common = [*setting.overrides(), *seeded(seed), *_rates(arm, rates)]
    if arm.trains != "federated":
        return [Phase([*common, *_keys(arm, setting, 1), *_baseline(arm, setting)],
                      1, setting.steps)]  # fmt: skip
    return [
        Phase(
            [*common, *_keys(arm, setting, rounds), f"llm_config.local_steps={length}",
             f"fl.n_rounds={rounds}", f"fl.eval_period={_period(setting, length)}",
             f"{SCHEDULE}.t_max={setting.steps}ba", f"fl.fragments={arm.fragments}"],
            rounds, length,
        )
        for rounds, length in _lengths(arm, setting)
    ]  # fmt: skip


def _lengths(arm: Arm, setting: Setting) -> list[tuple[int, int]]:
    """(rounds so far, steps of each) of an arm's phases."""
    length = _part(setting.local_steps, arm.fragments * arm.often)
    rounds = setting.steps // length
    if arm.ends == 1:
        return [(rounds, length)]
    early = rounds - max(1, rounds // 4)
    last, short = setting.steps - early * length, _part(length, arm.ends)
    return [(early, length), (early + last // short, short)]


def _part(steps: int, by: int) -> int:
    if steps % by:
        raise ValueError(f"--local-steps {steps} cannot be cut into {by} for this arm")
    return steps // by


def _period(setting: Setting, length: int) -> int:
    """Rounds from one validation to the next: four of a run."""
    return max(1, setting.steps // 4 // length)


def _rates(arm: Arm, rates: Rates) -> list[str]:
    outer = [] if rates.outer is None else [f"fl.strategy_kwargs.{arm.outer_key}={rates.outer}"]
    return [f"llm_config.optimizer.lr={rates.inner}", *outer]


def _keys(arm: Arm, setting: Setting, rounds: int) -> list[str]:
    steps = setting.steps
    lengths = {
        "half": steps // 2, "quarter": steps // 4, "little": max(1, steps // 48),
        "rounds": rounds, "few_rounds": max(1, rounds // 6),
    }  # fmt: skip
    return [key.format(**lengths) for key in arm.keys]


def _baseline(arm: Arm, setting: Setting) -> list[str]:
    """Keys of a run without rounds."""
    own = [f"llm_config.max_duration={setting.steps}ba",
           f"llm_config.eval_interval={max(1, setting.steps // 4)}ba"]  # fmt: skip
    rows = "llm_config.global_train_batch_size=32"
    return [*own, rows if arm.trains == "centralised" else "centralized.stream_id=0"]
