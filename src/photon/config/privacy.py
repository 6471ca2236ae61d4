"""Keys of `fl.privacy`: differential privacy of clients, what it costs in noise, and its budget."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from photon.config.base import Section

SMALL_DELTA = 1e-5
"""Of few clients; of many it is below one over their number, by a tenth in the exponent more."""
FEWEST = 2
"""Updates of a round whose clients add the noise: each of them knows its own part of it."""


class Privacy(Section):
    """Whether a client took part is hidden by noise in what its update goes into."""

    clip_norm: float | None = Field(
        default=None,
        ge=1e-12,
        le=1e12,
        description="Euclidean norm that an update is shortened to, so that no client moves the "
        "sum by more; then noise is added to it (docs/concepts/differential-privacy.md); null: no "
        "privacy",
    )
    noise_multiplier: float = Field(
        default=1.0,
        ge=1e-9,
        le=1e9,
        description="standard deviation of the noise on the sum of a round's updates, in units of "
        "clip_norm",
    )
    noise_by: Literal["server", "clients"] = Field(
        default="server",
        description="who adds the noise: the server; or each client its share, before it sends, so "
        "that no update leaves a site without noise",
    )
    delta: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="chance that epsilon does not hold; null: 1e-5, or n_total_clients^-1.1 where "
        "that is less",
    )
    max_epsilon: float | None = Field(
        default=None,
        gt=0,
        description="budget: the run ends before a round whose release would exceed it; null: none",
    )

    @property
    def is_on(self) -> bool:
        return self.clip_norm is not None

    @property
    def is_by_clients(self) -> bool:
        return self.is_on and self.noise_by == "clients"

    def delta_for(self, population: int) -> float:
        """The delta that epsilon is told for."""
        return min(SMALL_DELTA, population**-1.1) if self.delta is None else self.delta

    def check(self, population: int, needed: int) -> None:
        """Raises:
        ValueError: a delta that allows to publish a client whole, or a round whose noise somebody
            knows.
        """
        if not self.is_on:
            return
        if self.delta is not None and self.delta * population >= 1:
            raise ValueError(
                f"privacy.delta={self.delta:g} is one over n_total_clients={population} or more: "
                "to publish one client whole would be private; take much less, or null"
            )
        if self.is_by_clients and needed < FEWEST:
            raise ValueError(
                f"privacy.noise_by=clients needs a quorum of {FEWEST}: the only client of a round "
                "would know all of its noise"
            )
