"""Updates beside each other: what each is worth, whether it points the way of the others, and who
has copied whom.

What is worth little for one update is worth little for all of a round, so that thresholds are the
median of a round's less some deviations. Sources: the loss with and without an update, Templar's
Gauntlet (arXiv:2505.21684); median and MAD, Hampel's filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from photon.core.trust.reputation import Reputation

SCORES_KEPT = 32
"""Of accepted updates, that a state keeps: what the few of a small round are judged by."""
SCORES_NEEDED = 4
"""Updates of a round that are judged by each other alone."""
NORMAL = 1.4826
"""A median absolute deviation of normal numbers is their standard deviation over this."""
LEAST_NATS, LEAST_COSINE, LEAST_SHARE = 0.006, 0.02, 0.1
"""Deviations that say nothing: of a gain in nats, of a cosine, and as a share of the median."""
TOO_SHORT = 0.1
"""Of the median norm, below which next to nothing has been trained."""
TOO_NEAR = 0.05
"""Of the median of 1 - cosine over all pairs of a round, below which one is a copy of the other."""


class Score(NamedTuple):
    """What is to be said of an update beside the others of its round.

    Attributes:
        gain: nats by which the public loss falls with the round's `common_part` of this update;
            None: not measured.
        cosine: of its angle to the mean of the others; 0 if one of them is zero; None: there are
            no others.
    """

    gain: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRules:
    """The numbers of `fl.scoring`.

    Attributes:
        deviations: below the median, beyond which an update is refused.
        failures: rounds in a row that a client may fail before it is quarantined.
        rounds: that it is left out for.
    """

    deviations: float
    failures: int
    rounds: int


def cosines_to_others(gram: np.ndarray, weights: Sequence[float]) -> list[float | None]:
    """Cosine of each update's angle to the weighted mean of the others; None: there are none.

    Args:
        gram: [K, K] inner products of the updates.
        weights: [K] in that mean.
    """
    if len(weights) == 1:
        return [None]
    found: list[float | None] = []
    for k, own in enumerate(np.diag(gram)):
        others = np.array(weights, dtype=np.float64)
        others[k] = 0.0
        length = others @ gram @ others
        scale = np.sqrt(max(own, 0.0) * max(length, 0.0))
        found.append(float(others @ gram[k] / scale) if scale > 0 else 0.0)
    return found


def common_part(gram: np.ndarray, weights: Sequence[float]) -> float:
    """Length of the weighted mean of the updates over their mean length: 1 where all point one way,
    1 / sqrt(K) where they have nothing in common. Never less: who cancels the sum of the others
    would make all gains nothing, and hide whom they would tell.

    An update by itself goes so much too far: most of it is what only its client's rows and their
    order made of it, which the mean of all cancels. A loss after the whole of it is that of noise.

    Args:
        gram: [K, K] inner products of the updates.
        weights: [K] in the mean.
    """
    parts = np.array(weights, dtype=np.float64)
    lengths = parts @ np.sqrt(np.maximum(np.diag(gram), 0.0))
    common = np.sqrt(max(parts @ gram @ parts, 0.0)) / lengths if lengths > 0 else 0.0
    return float(max(common, 1 / np.sqrt(len(parts))))


def copies(gram: np.ndarray) -> dict[int, int]:
    """Index of an update -> index of an earlier one that it is a copy of, scaled perhaps.

    Where fewer than three updates are there, no distance says what is usual.
    """
    size = np.sqrt(np.maximum(np.diag(gram), 0.0))
    some = [k for k in range(len(size)) if size[k] > 0]
    apart = {
        (i, j): 1.0 - gram[i, j] / (size[i] * size[j]) for i in some for j in some if i < j
    }  # fmt: skip
    if len(some) < 3:
        return {}
    usual = float(np.median(list(apart.values())))
    found: dict[int, int] = {}
    for (i, j), distance in apart.items():
        if distance < TOO_NEAR * usual:
            found.setdefault(j, i)
    return found


def score_faults(
    clients: Sequence[int],
    scores: Sequence[Score],
    gram: np.ndarray,
    before: Reputation,
    rules: ScoreRules,
) -> dict[int, str]:
    """Clients whose update is refused, with the reason.

    Args:
        clients: of the updates, in their order.
        gram: [K, K] inner products of the updates.
        before: with the scores of earlier rounds.
    """
    gains, cosines = [score.gain for score in scores], [score.cosine for score in scores]
    by_gain = "lowers the public loss by {:.3g} nats, the others by {:.3g} or more"
    by_cosine = "cosine {:.3g} to the others' mean, theirs are {:.3g} or more"
    copied = {k: f"is a copy of client {clients[of]}'s update" for k, of in copies(gram).items()}
    # Of several reasons of one client the last stands.
    found = {
        **_low(cosines, before.cosines, rules.deviations, LEAST_COSINE, by_cosine),
        **_low(gains, before.gains, rules.deviations, LEAST_NATS, by_gain),
        **_short(gram),
        **copied,
    }
    return {clients[k]: reason for k, reason in found.items()}


def _short(gram: np.ndarray) -> dict[int, str]:
    """Index of an update in which next to nothing has been trained -> that."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    median = float(np.median(norms)) if len(norms) >= SCORES_NEEDED else 0.0
    return {
        k: f"norm {norm:.3g} is next to nothing, the median {median:.3g}"
        for k, norm in enumerate(norms)
        if norm < TOO_SHORT * median
    }


def _low(
    scores: Sequence[float | None],
    before: Sequence[float],
    deviations: float,
    least: float,
    reason: str,
) -> dict[int, str]:
    """Index of a score below those of the others, or that is no number -> the reason.

    Args:
        before, deviations, least: as of `lowest`.
        reason: with places for the score and for the lowest of the others.
    """
    known = {k: score for k, score in enumerate(scores) if score is not None}
    bound = lowest(list(known.values()), before, deviations, least)
    return {k: reason.format(score, bound) for k, score in known.items() if not score >= bound}


def lowest(now: Sequence[float], before: Sequence[float], deviations: float, least: float) -> float:
    """What no honest score is below: the median less so many deviations; -inf if it is not known.

    Args:
        now: scores of this round.
        before: of accepted updates of earlier ones, which count where this round has few.
        least: a deviation that says nothing.
    """
    known = list(now) if len(now) >= SCORES_NEEDED else [*before, *now]
    known = [value for value in known if np.isfinite(value)]
    if len(known) < SCORES_NEEDED:
        return -np.inf
    median = float(np.median(known))
    deviation = NORMAL * float(np.median(np.abs(np.array(known) - median)))
    return median - deviations * max(deviation, LEAST_SHARE * abs(median), least)


def remembered(before: Reputation, accepted: Mapping[int, Score]) -> Reputation:
    """With the scores of a round's accepted updates; the last of all are kept."""
    gains = [score.gain for score in accepted.values() if score.gain is not None]
    cosines = [score.cosine for score in accepted.values() if score.cosine is not None]
    return replace(
        before,
        gains=(*before.gains, *gains)[-SCORES_KEPT:],
        cosines=(*before.cosines, *cosines)[-SCORES_KEPT:],
    )
