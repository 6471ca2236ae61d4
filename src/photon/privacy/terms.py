"""What a configuration promises: how much noise each round has, and what a run of it will cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.errors import ConfigError
from photon.privacy.accounting import Count, Release, epsilon

LOUD = 10.0
"""Noise that is so many times as long as a round's sum is longer than what is learned even after a
hundred rounds: it grows with the root of their number, what is learned with the number.
"""


def release_of(fl: Federation, arrived: int, alive: int) -> Release:
    """What a round makes public.

    Args:
        arrived: clients whose updates are merged. Where clients add the noise, those that dropped
            out have added none, and a client that looks at the sum knows its own share.
        alive: clients that the cohort was drawn from. One that looks knows whether it is in it.

    A secret cohort counts only if clients keep nothing between rounds: otherwise what a client
    sends later would tell in which earlier rounds it was, and so who was not.
    """
    noise = fl.privacy.noise_multiplier
    if fl.privacy.is_by_clients:
        noise *= math.sqrt((arrived - 1) / fl.cohort_size)
    is_secret = is_sampled(fl) and fl.forgets_clients and fl.cohort_size < alive - 1
    return Release(noise, alive - 1, fl.cohort_size) if is_secret else Release(noise)


def is_sampled(fl: Federation) -> bool:
    """Whether each round draws some of the clients, all of them alike."""
    return fl.sampling == "uniform" and fl.cohort_size < fl.population - 1


def share_deviation(fl: Federation) -> float:
    """Standard deviation of the noise that a client adds to its update."""
    assert fl.privacy.clip_norm is not None
    return fl.privacy.noise_multiplier * fl.privacy.clip_norm / math.sqrt(fl.cohort_size)


def price_of(fl: Federation, releases: Count) -> float:
    """The epsilon of what has been released."""
    return epsilon(releases, fl.privacy.delta_for(fl.population))


def shows_noisy_updates(fl: Federation) -> bool:
    """Whether the server gets each update by itself, with its client's noise."""
    return fl.privacy.is_by_clients and not fl.secure_aggregation


def price_of_updates(fl: Federation, updates: int) -> float | None:
    """The epsilon of a client towards a server that keeps each of so many updates of that client.

    None where the server has no single update with noise: none came, they are summed under masks,
    or it adds the noise itself.
    """
    if not shows_noisy_updates(fl) or not updates:
        return None
    alone = fl.privacy.noise_multiplier / math.sqrt(fl.cohort_size)
    return price_of(fl, {Release(alone): updates})


@dataclass(frozen=True, slots=True)
class Promise:
    """What a run will cost if all clients are there.

    Attributes:
        rounds: until its end, or that of its budget.
        is_cut: whether the budget ends it.
        sampled: whether epsilon may count on cohorts being secret; it holds towards those who do
            not know them. would_be_sampled: it could, if clients kept nothing between rounds.
        epsilon_of_updates: as of `price_of_updates`.
    """

    epsilon: float
    delta: float
    rounds: int
    is_cut: bool
    sampled: bool
    would_be_sampled: bool
    epsilon_of_updates: float | None


def loudness(fl: Federation, elements: int) -> float:
    """How many times as long a round's noise on a sum of so many elements is as the sum of a whole
    cohort can be: noise_multiplier sqrt(d) / K.
    """
    return fl.privacy.noise_multiplier * math.sqrt(elements) / fl.cohort_size


def noise_warning(fl: Federation, elements: int) -> str | None:
    """What somebody who has asked for privacy among few clients may not expect."""
    if not fl.privacy.is_on or (times := loudness(fl, elements)) <= LOUD:
        return None
    return (
        f"fl.privacy.noise_multiplier={fl.privacy.noise_multiplier:g}: the noise of a round is "
        f"{times:.0f} times as long as the updates of its {fl.cohort_size} clients together can "
        "be: little will be learned; larger cohorts hide clients behind less noise"
    )


def check_budget(fl: Federation) -> None:
    """ConfigError: `fl.privacy.max_epsilon` does not pay for one round; as `promise_of`."""
    if not fl.privacy.is_on or not fl.rounds:
        return
    budget = fl.privacy.max_epsilon
    price = price_of(fl, {release_of(fl, fl.cohort_size, fl.population): 1})
    if budget is not None and price > budget:
        raise ConfigError(
            f"fl.privacy.max_epsilon={budget:g}: one round costs epsilon {price:.4g}; raise it, or "
            "fl.privacy.noise_multiplier"
        )


def promise_of(fl: Federation) -> Promise | None:
    """None without privacy.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    if not fl.privacy.is_on:
        return None
    release, budget = release_of(fl, fl.cohort_size, fl.population), fl.privacy.max_epsilon
    rounds = fl.rounds
    if budget is not None and price_of(fl, {release: rounds}) > budget:
        low, high = 0, rounds  # the budget has room for `low`, and not for `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if price_of(fl, {release: middle}) > budget else (middle, high)
            )
        rounds = low
    return Promise(
        epsilon=price_of(fl, {release: rounds} if rounds else {}),
        delta=fl.privacy.delta_for(fl.population),
        rounds=rounds,
        is_cut=rounds < fl.rounds,
        sampled=release.pool > 0,
        would_be_sampled=is_sampled(fl) and not release.pool,
        epsilon_of_updates=price_of_updates(fl, rounds),
    )
