"""Keys of `fl` by which updates become a step: their mean, the outer optimizer, its schedule."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from photon.config.base import Section
from photon.points import (
    AGGREGATIONS,
    OUTER_OPTIMIZERS,
    Outer,
    aggregation_parts,
    shortest,
    spelled,
)


class StrategyKwargs(Section):
    """Arguments of the outer optimizer; which of them count depends on `fl.strategy_name`.

    One's own takes numbers by any name.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)  # pyright: ignore

    server_learning_rate: float | None = Field(
        default=None, gt=0, description="outer lr of the SGD family; default 1.0 (FedAvg) or 0.7"
    )
    server_momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="outer momentum of FEDAVGM, FEDMOM and NESTEROV; default 0.7",
    )
    eta: float | None = Field(default=None, gt=0, description="outer lr of the adaptive family")
    beta_1: float | None = Field(default=None, ge=0, lt=1, description="first-moment decay")
    beta_2: float | None = Field(default=None, ge=0, lt=1, description="second-moment decay")
    tau: float | None = Field(
        default=None, gt=0, description="added to the root of the second moment"
    )


_OWN_STRATEGY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_ALIASES = {"NESTOROV": "NESTEROV"}


class OuterSchedule(Section):
    """The outer learning rate, as a factor that depends on the round."""

    name: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="after the warm-up: no decay, or down towards alpha_f"
    )
    t_warmup: int = Field(default=0, ge=0, description="rounds of linear warm-up")
    t_max: int | None = Field(
        default=None,
        ge=1,
        description="last round of the fall, whose factor later ones keep; null: the last of the "
        "run as it is begun",
    )
    alpha_f: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="factor that the fall would reach in the round after t_max; that round's is "
        "above it",
    )


class Merging(Section):
    """What the server makes of the updates of a round."""

    outer_name: str = Field(
        default="NESTEROV",
        description=f"outer optimizer: {', '.join(OUTER_OPTIMIZERS)}, any case; or your own, as "
        "module:function",
        examples=[name.lower() for name in OUTER_OPTIMIZERS],
    )
    outer_given: StrategyKwargs = StrategyKwargs()
    aggregation: str = Field(
        default="mean",
        description="what the pseudo-gradients are merged into: their mean; the mean of their "
        "directions and of their lengths apart, tensor by tensor (rda; embeddings: the mean); "
        "the mean, as long as they are (normed); or what clients that lie cannot move far: "
        "median, trimmed_mean:CUT, centred_clip:RADIUS/ITERATIONS, krum:BAD/KEPT, all but "
        "ITERATIONS in percent",
        examples=list(AGGREGATIONS),
    )
    scaling: Literal["none", "sqrt", "linear"] = Field(
        default="none", description="multiply the mean pseudo-gradient by 1, sqrt(K) or K clients"
    )
    outer_schedule: OuterSchedule = OuterSchedule()
    ema_decay: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="keep an exponential moving average of the global parameters, so much of it in "
        "each round, and validate and give out that in place of the last ones; null: none",
    )

    @field_validator("outer_name", mode="before")
    @classmethod
    def _known_strategy(cls, value: Any) -> str:
        if _OWN_STRATEGY.fullmatch(str(value)):
            return str(value)
        name = str(value).upper()
        name = _ALIASES.get(name, name)
        if name not in OUTER_OPTIMIZERS:
            choices = ", ".join(OUTER_OPTIMIZERS)
            raise ValueError(f"unknown strategy {value!r}; known: {choices}, or module:function")
        return name

    @field_validator("aggregation")
    @classmethod
    def _known_aggregation(cls, value: str) -> str:
        return shortest(aggregation_parts(value), AGGREGATIONS)

    @model_validator(mode="after")
    def _takes_its_arguments(self) -> Self:
        given = self.outer_given.model_dump(exclude_none=True)
        takes = given if self.has_own_strategy else self.outer.arguments
        if unknown := sorted(set(given) - set(takes)):
            raise ValueError(
                f"strategy_kwargs.{unknown[0]} is no argument of {self.outer_name}; "
                f"it takes {', '.join(takes)}"
            )
        return self

    def check_momentum(self, is_async: bool) -> None:
        """Raises:
        ValueError: an outer optimizer that would be asked for more steps than it is made for.
        """
        if is_async and not self.outer.gathers:
            known = ", ".join(name for name, one in OUTER_OPTIMIZERS.items() if one.gathers)
            raise ValueError(
                f"mode=async takes no strategy_name={self.outer_name}: its moments would "
                f"decay with every small merge; take one of {known}"
            )

    @property
    def outer(self) -> Outer:
        """The outer optimizer; one's own has no defaults but that of its learning rate."""
        own = Outer(self.outer_name, {"server_learning_rate": 1.0})
        return OUTER_OPTIMIZERS.get(self.outer_name, own)

    @property
    def outer_arguments(self) -> dict[str, float]:
        """Arguments of the outer optimizer, defaults filled in."""
        return {**self.outer.arguments, **self.outer_given.model_dump(exclude_none=True)}

    @property
    def has_own_strategy(self) -> bool:
        return self.outer_name not in OUTER_OPTIMIZERS


def aggregations() -> list[str]:
    """A line for each aggregation: how it is named with its arguments, what it withstands, what it
    is.
    """
    return [
        f"    {spelled(name, one.arguments):<20} {one.withstands:<26} {one.about}"
        for name, one in AGGREGATIONS.items()
    ]
