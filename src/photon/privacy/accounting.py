"""What releases with noise cost: epsilon, by the package `dp-accounting`.

Two runs are neighbours if they differ in what one client contributes: its updates in one, zero in
their place in the other. A release is then a Gaussian mechanism of sensitivity `clip_norm`, and
many of them are exactly one with less noise. Where the cohort is drawn in secret there is a second
bound, of sampling without replacement. It is known for neighbours in which one client stands in the
place of another: twice as far apart, and zero in a client's place is a case of that. Both bounds
hold, so the lower one counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from photon.errors import ConfigError, install_with


class Release(NamedTuple):
    """A sum of a round's updates that was made public with noise.

    Attributes:
        noise: its standard deviation, in units of what one client can move the sum by.
        pool: clients among which the cohort was drawn, and nobody knows whom; 0: it is known.
        cohort: clients drawn.
    """

    noise: float
    pool: int = 0
    cohort: int = 0


Count = Mapping[Release, int]
"""How often there was a release of each kind."""


Told = tuple[tuple[float, ...], ...]
"""Releases as a state holds them: noise, pool, cohort, and how many."""


def told_of(releases: Count) -> Told:
    return tuple((*release, times) for release, times in sorted(releases.items()))


def count_of(told: Iterable[Sequence[float]]) -> Counter[Release]:
    found: Counter[Release] = Counter()
    for noise, pool, cohort, times in told:
        found[Release(float(noise), int(pool), int(cohort))] += int(times)
    return found


def epsilon(releases: Count, delta: float) -> float:
    """The epsilon that holds for all of them together, but for a chance of `delta`.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    if not releases:
        return 0.0
    exact = 1.0 / math.sqrt(sum(count / one.noise**2 for one, count in releases.items()))
    plain = float(_library().get_epsilon_gaussian(exact, delta))
    if not any(one.pool for one in releases):
        return plain
    return min(plain, _sampled(releases, delta))


def _sampled(releases: Count, delta: float) -> float:
    """By Renyi divergences, which add up (Mironov 2017; Wang, Balle, Kasiviswanathan 2019)."""
    library = import_module("dp_accounting.rdp.rdp_privacy_accountant")
    total = sum(count * _divergences(one) for one, count in releases.items())
    return float(library.compute_epsilon(library.DEFAULT_RDP_ORDERS, total, delta)[0])


@cache
def _divergences(release: Release) -> Any:
    """Renyi divergences of one release, by order."""
    library = _library()
    accountant = library.rdp.RdpAccountant(
        neighboring_relation=library.NeighboringRelation.REPLACE_ONE
    )
    event = library.GaussianDpEvent(release.noise)
    if release.pool:
        in_place = library.GaussianDpEvent(release.noise / 2)
        event = library.SampledWithoutReplacementDpEvent(release.pool, release.cohort, in_place)
    accountant.compose(event)
    return accountant.rdp


def _library() -> Any:
    try:
        return import_module("dp_accounting")
    except ImportError as error:
        raise ConfigError(
            f"fl.privacy: dp-accounting, which computes epsilon, is missing: {install_with('dp')}"
        ) from error
