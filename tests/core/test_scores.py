"""Updates beside each other: thresholds, copies, quarantine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from photon.core.trust.quarantine import admitted, after_round
from photon.core.trust.reputation import Reputation
from photon.core.trust.scores import (
    SCORES_KEPT,
    Score,
    ScoreRules,
    common_part,
    copies,
    cosines_to_others,
    lowest,
    remembered,
    score_faults,
)

RULES = ScoreRules(deviations=6.0, failures=2, rounds=3)
NOTHING = Reputation()


def honest(count: int, seed: int = 0) -> np.ndarray:
    """[count, 400] updates with a direction in common, and each its own."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=400) + generator.normal(size=(count, 400))


def faults(rows: np.ndarray, gains: list[float | None] | None = None, before=NOTHING):
    gram, clients = rows @ rows.T, list(range(10, 10 + len(rows)))
    cosines = cosines_to_others(gram, [1.0] * len(rows))
    scores = [Score(g, c) for g, c in zip(gains or [None] * len(rows), cosines, strict=True)]
    return score_faults(clients, scores, gram, before, RULES)


def test_cosines_are_those_to_the_weighted_mean_of_the_others():
    rows, weights = honest(5), [1.0, 2.0, 3.0, 4.0, 5.0]
    found = cosines_to_others(rows @ rows.T, weights)
    for k, row in enumerate(rows):
        others = sum(w * r for i, (w, r) in enumerate(zip(weights, rows, strict=True)) if i != k)
        expected = row @ others / np.linalg.norm(row) / np.linalg.norm(others)
        assert found[k] == pytest.approx(expected)
    assert cosines_to_others(np.zeros((2, 2)), [1.0, 1.0]) == [0.0, 0.0]


def test_the_common_part_is_all_of_what_is_alike_and_little_of_what_is_not():
    one = np.array([2.0, 0.0, 0.0, 0.0])
    alike = np.stack([one, one, one])
    apart = np.eye(4) * 3.0
    assert common_part(alike @ alike.T, [1, 1, 1]) == pytest.approx(1.0)
    assert common_part(apart @ apart.T, [1, 1, 1, 1]) == pytest.approx(1 / math.sqrt(4))
    assert common_part(apart @ apart.T, [1, 0, 0, 0]) == pytest.approx(1.0)
    cancelled = np.stack([one, one, -2 * one])
    assert common_part(cancelled @ cancelled.T, [1, 1, 1]) == pytest.approx(1 / math.sqrt(3))
    assert common_part(np.zeros((2, 2)), [1, 1]) == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("seed", range(20))
def test_nobody_honest_is_refused(seed):
    generator = np.random.default_rng(seed)
    gains = list(generator.normal(-0.02, 0.01, size=8))
    assert faults(honest(8, seed), gains) == {}


def test_whoever_turns_around_is_told_by_the_angle():
    rows = honest(8)
    rows[[2, 5]] *= -1
    found = faults(rows)
    assert set(found) == {12, 15}
    assert "to the others' mean" in found[12]


def test_who_is_left_alone_is_compared_with_nobody():
    """The other of two was refused for its gain: an angle to nobody's mean says nothing."""
    before = Reputation(gains=(0.3,) * 8, cosines=(0.5,) * 8)
    assert cosines_to_others(np.eye(1), [3.0]) == [None]
    assert faults(honest(1), [0.3], before) == {}
    assert set(faults(honest(1), [-1.0], before)) == {10}, "its gain speaks still"
    after = remembered(before, {10: Score(0.3, None)})
    assert (after.gains, after.cosines) == ((0.3,) * 9, (0.5,) * 8)


def test_copies_are_told_whatever_their_size_and_a_little_noise():
    rows = honest(8)
    rows[3] = rows[1]
    rows[6] = 3 * rows[1] + 0.1 * honest(1, seed=5)[0]
    assert copies(rows @ rows.T) == {3: 1, 6: 1}
    assert faults(rows) == {
        13: "is a copy of client 11's update",
        16: "is a copy of client 11's update",
    }
    assert copies((rows @ rows.T)[:2, :2]) == {}, "of two nothing is usual"


def test_what_moves_all_alike_is_no_copy():
    """As in the first round, where every client learns how often each token occurs."""
    rows = honest(8) + 100 * honest(1, seed=9)[0]
    assert copies(rows @ rows.T) == {}


def test_next_to_nothing_is_refused_and_a_fifth_is_not():
    rows = honest(8)
    rows[0] *= 0
    rows[1] *= 0.05
    rows[2] *= 0.2
    found = faults(rows)
    assert set(found) == {10, 11}
    assert "is next to nothing, the median" in found[10]


def test_what_raises_the_public_loss_is_refused_and_what_is_no_number():
    gains = [0.1, 0.11, 0.12, 0.1, 0.09, 0.1, -1.2, math.nan]
    found = faults(honest(8), gains)
    assert set(found) == {16, 17}
    assert found[16].startswith("lowers the public loss by -1.2 nats, the others by 0.0")


def test_few_updates_are_judged_by_earlier_ones_too():
    rows = honest(3)
    rows[0] *= -1
    assert faults(rows) == {}
    known = Reputation(cosines=(0.5, 0.52, 0.48, 0.5, 0.51))
    assert 10 in faults(rows, before=known)


def test_the_threshold_is_the_median_less_so_many_deviations():
    assert lowest([1.0, 2.0, 3.0, 4.0, 5.0], [], 2.0, 0.0) == pytest.approx(3 - 2 * 1.4826)
    assert lowest([1.0, 1.0, 1.0, 1.0], [], 2.0, 0.0) == pytest.approx(0.8), "a tenth at least"
    assert lowest([0.0] * 4, [9.0] * 9, 2.0, 0.5) == -1.0, "a full round has no need of others"
    assert lowest([1.0, 2.0], [3.0], 2.0, 0.0) == -math.inf


def test_the_last_scores_are_remembered():
    before = Reputation(gains=(1.0,), cosines=(0.5,) * 31, quarantined={3: 9})
    after = remembered(before, {0: Score(2.0, 0.1), 1: Score(None, 0.2)})
    assert after.gains == (1.0, 2.0)
    assert after.cosines == (*(0.5,) * 30, 0.1, 0.2)
    assert len(after.cosines) == SCORES_KEPT
    assert after.quarantined == {3: 9}


def test_who_fails_repeatedly_is_left_out_and_comes_back():
    first = after_round(NOTHING, 5, [0, 1], [2], RULES)
    assert (first.failures, first.quarantined) == ({2: 1}, {})
    assert after_round(first, 6, [0, 1, 2], [], RULES).failures == {}, "only in a row"
    left_out = after_round(first, 6, [], [2], RULES)
    assert left_out.quarantined == {2: 9}
    here = [0, 1, 2]
    found = [admitted(here, left_out.quarantined, number, 1) for number in (7, 9, 10)]
    assert found == [[0, 1], [0, 1], here]
    back = after_round(left_out, 9, [0, 1], [], RULES)
    assert back.quarantined == {}
    assert after_round(back, 10, [], [2], RULES).quarantined == {2: 13}, "if it fails again"
    assert after_round(back, 10, [2], [], RULES).failures == {}


def test_as_many_come_back_early_as_a_round_needs():
    out = {1: 9, 2: 7, 3: 8}
    assert admitted([0, 1, 2, 3], out, 7, needed=1) == [0]
    assert admitted([0, 1, 2, 3], out, 7, needed=3) == [0, 2, 3]
    assert admitted([0, 1, 2, 3], out, 8, needed=1) == [0, 2]
