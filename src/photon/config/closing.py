"""Keys of `fl` by which a round closes: how many it needs, how long it waits, what else."""

from __future__ import annotations

import json
from typing import Literal, Self

from pydantic import Field, model_validator

from photon.config.base import LONGEST, Section

_NO_PERIODS = "clients are not at one version together (aggregate_momenta=false averages none)"
ONLY_SYNC: dict[str, tuple[str, object, str]] = {
    "failures_accepted": ("accept_failures_cnt", 0, "a merge needs one update"),
    "quorum": ("quorum", None, "a merge needs one update"),
    "spares": ("oversample", 0, "nobody waits for a client, so none is needed in its place"),
    "skips_failed_rounds": (
        "ignore_failed_rounds", False, "its length is counted in tokens, which no skipped merge has"
    ),
    "fold_updates": ("fold_updates", False, "clients of a node may have begun at other versions"),
    "local_epochs": ("n_local_epochs", None, "it counts in steps: llm_config.local_steps"),
    "fragments": ("fragments", 1, "a late update is of another fragment"),
    "overlap": ("overlap", "none", "no step of a next merge is known before that is open"),
    "fragment_alpha": ("fragment_alpha", 0.0, "a merge is of some clients, and old to the others"),
    "random_layers": ("random_layers", [], "an update may be older than they are"),
    "validates_clients": ("split_eval", False, "its clients are not at one version together"),
    "first_moment_period": ("first_moment_period", 1, _NO_PERIODS),
    "second_moment_period": ("second_moment_period", 1, _NO_PERIODS),
}  # fmt: skip
"""Fields that say something of synchronous rounds alone -> key, value that says nothing, why."""
ASYNC_EXPONENT = 0.5
"""Of staleness, where none is given: FedBuff's (Nguyen et al. 2021, arXiv:2106.06639, s. 5)."""
SLOWEST = 8
"""Times that a client may be slower than the others before its update is too late, however small
merges are."""


class Closing(Section):
    """When a round closes, and with whom."""

    mode: Literal["sync", "async"] = Field(
        default="sync",
        description="sync: a round waits for its cohort; async: whatever has come is merged, "
        "clients that are late train on and come in a later merge (docs/concepts/waiting.md)",
    )
    buffer: int | None = Field(
        default=None,
        ge=1,
        description="updates of an asynchronous merge, fewer where a grace time has passed; null: "
        "the cohort",
    )
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
        f"their tokens; null: refuse them, or {ASYNC_EXPONENT} with mode=async",
    )
    max_staleness: int | None = Field(
        default=None,
        ge=1,
        description="rounds, or merges, after which a late update is refused all the same; null: "
        f"4, or {SLOWEST} times the cohort with mode=async",
    )
    spares: int = Field(
        default=0,
        ge=0,
        description="clients that may stand in for others of a cohort, whose number is averaged: a "
        "round of remote nodes asks all at once and closes with the first so many; on one machine "
        "each is trained in the place of one that has failed or was refused",
    )
    round_timeout: float = Field(
        default=86_400.0,
        gt=0,
        le=LONGEST,
        description="seconds after which a round closes without stragglers",
    )
    round_timeout_min: float = Field(
        default=60.0,
        ge=0,
        le=LONGEST,
        description="seconds that a round waits for stragglers at the least",
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
    def is_async(self) -> bool:
        return self.mode == "async"

    @property
    def late_exponent(self) -> float | None:
        """By which late updates weigh less; None: they are refused."""
        default = ASYNC_EXPONENT if self.is_async else None
        return default if self.staleness_exponent is None else self.staleness_exponent

    def most_staleness(self, cohort: int) -> int:
        """Rounds, or merges, that an update may be late."""
        return self.max_staleness or (SLOWEST * cohort if self.is_async else 4)

    def merged(self, cohort: int) -> int:
        """Updates of an asynchronous merge."""
        return self.buffer or cohort

    def check_mode(self, cohort: int, *, averages_moments: bool) -> None:
        """Raises:
        ValueError: a key that says nothing of asynchronous merges, or a buffer that never fills.
        """
        if not self.is_async:
            return
        without = set() if averages_moments else {"first_moment_period", "second_moment_period"}
        for name, (key, idle, why) in ONLY_SYNC.items():
            if name not in without and (value := getattr(self, name)) != idle:
                shown = json.dumps(value).strip('"')
                raise ValueError(f"mode=async takes no {key}={shown}: {why}; leave one of them out")
        if self.failed_rounds == "skip":
            raise ValueError(
                "mode=async takes no failed_rounds=skip: its length is counted in tokens, which no "
                "skipped merge has; take stop or retry"
            )
        if self.merged(cohort) > cohort:
            raise ValueError(f"buffer={self.buffer} is more than the cohort of {cohort}")

    @property
    def on_failure(self) -> Literal["stop", "retry", "skip"]:
        """What follows a round without a quorum."""
        return "skip" if self.skips_failed_rounds else self.failed_rounds
