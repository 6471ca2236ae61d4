"""Keys of `fl` by which a round closes: how many it needs, how long it waits, what else."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from photon.config.base import Section


class Closing(Section):
    """When a round closes, and with whom."""

    quorum: int | None = Field(
        default=None,
        ge=1,
        description="fewest accepted updates that close a round; null: the cohort less "
        "accept_failures_cnt",
    )
    failures_accepted: int = Field(
        default=0,
        ge=0,
        description="clients of a round that may have no update (an error while they train, a "
        "worker or node that is lost, a deadline, a refusal), exactly; see quorum",
    )
    skips_failed_rounds: bool = Field(
        default=False,
        description="another way to say failed_rounds=skip: a round below the quorum passes, and "
        "the parameters stay",
    )
    staleness_exponent: float | None = Field(
        default=None,
        ge=0,
        description="take late updates in a later round, weighing (1 + rounds late)^-exponent of "
        "their tokens; null: refuse them",
    )
    max_staleness: int = Field(
        default=4, ge=1, description="rounds after which a late update is refused all the same"
    )
    spares: int = Field(
        default=0,
        ge=0,
        description="clients that may stand in for others of a cohort, whose number is averaged: a "
        "round of remote nodes asks all at once and closes with the first so many; on one machine "
        "each is trained in the place of one that has failed or was refused",
    )
    round_timeout: float = Field(
        default=86_400.0, gt=0, description="seconds after which a round closes without stragglers"
    )
    round_timeout_min: float = Field(
        default=60.0, ge=0, description="seconds that a round waits for stragglers at the least"
    )
    straggler_factor: float = Field(
        default=5.0,
        gt=0,
        description="deviations (MAD) beyond the median of the measured durations after which a "
        "client is late, once fl.quorum updates are here",
    )
    failed_rounds: Literal["stop", "retry", "skip"] = Field(
        default="stop", description="what follows a round with fewer updates than fl.quorum"
    )
    round_attempts: int = Field(
        default=3, ge=1, description="tries of one round before the run stops, if it is retried"
    )

    @model_validator(mode="after")
    def _fails_one_way(self) -> Self:
        if self.skips_failed_rounds and self.failed_rounds == "retry":
            raise ValueError("ignore_failed_rounds=true skips rounds, failed_rounds=retry does not")
        return self

    @property
    def on_failure(self) -> Literal["stop", "retry", "skip"]:
        """What follows a round without a quorum."""
        return "skip" if self.skips_failed_rounds else self.failed_rounds
