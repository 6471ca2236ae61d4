"""Asynchronous merges: shares, staleness, momentum and clocks, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from photon.config import load_config
from photon.core.gate import refusal
from photon.core.messages import Bounds, ServerState, Update
from photon.core.outer import EMA, OuterOptimizer, sgd
from photon.core.policy import (
    GRACE,
    LEAST_PACE,
    MOST_PACE,
    Merging,
    Rules,
    grace,
    merges,
    paced_steps,
    scale,
    share,
    waiting_longest,
)
from photon.core.round import _due, close_round, open_round
from photon.run.outer import outer_of
from states import bits, copied

LR, MOMENTUM = 0.7, 0.9
TWO = Merging(buffer=1, cohort=2, step_tokens=2 * 10, local_steps=5)
"""Two clients, ten tokens a step of each, five steps: a hundred tokens a round."""
RULES = Rules(quorum=1, can_be_late=True, timeout=100.0, staleness_exponent=0.5, max_staleness=3,
              merging=TWO)  # fmt: skip


def start(outer: OuterOptimizer, value: float = 1.0) -> ServerState:
    params = {"w": torch.tensor([value, -2.0, 0.25])}
    return ServerState(round=0, step=0, params=params, outer=outer.init(params))


def opened(state: ServerState, rules: Rules = RULES, clients: tuple[int, ...] = (0, 1)):
    steps = dict.fromkeys(clients, 5)
    return open_round(state, run="r", steps=steps, rules=rules, base_digest=f"base {state.round}",
                      bounds=Bounds(late_steps=5))  # fmt: skip


def update(client: int, number: int, value: float, tokens: int = 50) -> Update:
    gradient = {"w": torch.tensor([value, 0.5 * value, 3.0])}
    return Update(run="r", round=number, client=client, gradient=gradient, moments={},
                  num_tokens=tokens, num_steps=5, base_digest=f"base {number - 1}",
                  metrics={"train_loss": 1.0})  # fmt: skip


def merge(state: ServerState, outer: OuterOptimizer, *updates: Update, rules: Rules = RULES):
    return close_round(state, opened(state, rules), updates, outer=outer, rules=rules)


def test_a_share_is_the_part_of_a_cohorts_tokens():
    assert share([50.0, 50.0], RULES) == 1.0
    assert share([50.0], RULES) == 0.5
    assert share([50.0, 50.0, 50.0], RULES) == 1.0, "never more than a round"
    assert share([7.0], replace(RULES, merging=None)) == 1.0
    assert scale(1, replace(RULES, scaling="sqrt")) == 2**0.5, "of a cohort, whoever has come"


@pytest.mark.parametrize("nesterov", [True, False])
def test_whole_rounds_are_the_steps_of_torch_bit_for_bit(nesterov):
    """And those of the synchronous server, to the bit: torch's own sums are in another order."""
    gathering = sgd(lr=LR, momentum=MOMENTUM, nesterov=nesterov, gathers=True)
    plain = sgd(lr=LR, momentum=MOMENTUM, nesterov=nesterov)
    ours, theirs = start(gathering), start(plain)
    reference = torch.nn.Parameter(theirs.params["w"].clone())
    optimizer = torch.optim.SGD([reference], LR, MOMENTUM, nesterov=nesterov)
    for number in range(1, 7):
        made = [update(0, number, 0.1 * number), update(1, number, -0.3 * number)]
        ours, report = merge(ours, gathering, *made)
        theirs, _ = merge(theirs, plain, *made, rules=Rules(quorum=1))
        reference.grad = (made[0].gradient["w"] + made[1].gradient["w"]) / 2
        optimizer.step()
        assert report.share == 1.0
        assert bits(replace(ours, outer={})) == bits(replace(theirs, outer={}))
        assert torch.equal(ours.outer["momentum"]["w"], theirs.outer["momentum"]["w"])
        torch.testing.assert_close(ours.params["w"], reference.data)
        assert (ours.step, ours.gathered) == (theirs.step, 0.0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_round_in_two_halves_steps_as_far_as_in_one(nesterov):
    """Merged one by one from one base: the sum of the halves, and momentum once."""
    gathering = sgd(lr=LR, momentum=MOMENTUM, nesterov=nesterov, gathers=True)
    exact = replace(RULES, staleness_exponent=0.0)
    whole = halves = start(gathering)
    whole, halves = copied(whole), copied(halves)
    for number in range(1, 4):
        made = [update(0, number, 0.1 * number), update(1, number, -0.3 * number)]
        whole, _ = merge(whole, gathering, *made, rules=exact)
        for one in made:
            again = replace(one, round=halves.round + 1, base_digest=f"base {halves.round}")
            halves, report = merge(halves, gathering, again, rules=exact)
            assert report.share == 0.5
    torch.testing.assert_close(halves.params["w"], whole.params["w"])
    torch.testing.assert_close(halves.outer["momentum"]["w"], whole.outer["momentum"]["w"])
    assert (halves.step, halves.round, whole.round) == (whole.step, 6, 3) == (15, 6, 3)


def test_a_staleness_of_one_against_a_trajectory_by_hand():
    """Client 0 is merged at once; client 1, of the same base, a merge later."""
    gathering = sgd(lr=LR, momentum=MOMENTUM, nesterov=True, gathers=True)
    state = start(gathering)
    a, b, c = update(0, 1, 0.2), update(1, 1, 0.4), update(0, 2, 0.8)
    state, _ = merge(state, gathering, a)
    x = 1.0 - LR * 0.5 * 0.2  # half a cohort's tokens; momentum waits for the rest
    assert state.params["w"][0].item() == pytest.approx(x)
    assert (state.gathered, state.step) == (0.5, 2), "50 tokens, of 20 a step"
    state, report = merge(state, gathering, b, c)
    late = 50 * 2**-0.5
    assert report.late == {1: 1}
    part = (late + 50) / 100
    g = part * (late * 0.4 + 50 * 0.8) / (late + 50)
    v = 0.5 * 0.2 + g  # what has been gathered, no momentum before
    x -= LR * (g + MOMENTUM * v)
    assert state.params["w"][0].item() == pytest.approx(x)
    assert state.outer["momentum"]["w"][0].item() == pytest.approx(v)
    assert state.outer["gathered"]["w"].tolist() == [0.0, 0.0, 0.0]
    assert state.gathered == pytest.approx(0.5 + part - 1.0)
    assert state.last_accepted == {0: 2, 1: 1}
    assert (state.num_tokens, state.step) == (150, 7)


def test_no_update_counts_twice_nor_from_a_base_that_it_is_not_of():
    outer = sgd(lr=1.0)
    state, _ = merge(start(outer), outer, update(0, 1, 0.2))
    state, _ = merge(state, outer, update(1, 1, 0.2))
    plan = opened(state, clients=())
    again, other, fine = update(1, 1, 0.2), update(0, 2, 0.2), update(0, 2, 0.2)
    assert refusal(again, plan, state) == "late, and round 1 of client 1 has been applied"
    other = replace(other, base_digest="base 0")
    assert refusal(other, plan, state) == "trained from other parameters (base 0)"
    assert refusal(fine, plan, state) is None
    assert refusal(replace(fine, run="x"), plan, state) is not None
    for _ in range(3):
        state, _ = merge(state, outer, update(0, state.round + 1, 0.2))
    old = opened(state, clients=())
    assert refusal(update(1, 2, 0.2), old, state) == "stale: of r round 2, open is round 6"


@pytest.mark.parametrize(
    ("sound", "since_first", "waited", "expected"),
    [
        (0, 0.0, 100.0, False),
        (0, 0.0, 100.1, True),
        (1, 1.4, 50.0, False),
        (1, 1.6, 50.0, True),
        (2, 0.0, 0.0, True),
    ],
)
def test_a_merge_closes_when_it_is_full_or_its_grace_is_over(sound, since_first, waited, expected):
    rules = replace(RULES, merging=replace(TWO, buffer=2))
    assert merges(sound, since_first, waited, [5.0, 10.0, 99.0], rules) == expected


def test_grace_is_a_part_of_the_median_or_what_clients_have_to_do():
    assert grace([5.0, 10.0, 99.0], 0.0, 100.0) == GRACE * 10
    assert grace([5.0, 10.0, 99.0], 7.0, 100.0) == 7
    assert grace([5000.0], 0.0, 100.0) == 100
    assert grace([], 7.0, 100.0) == 100, "no wait without a deadline"


def test_steps_follow_speeds_within_bounds():
    speeds = {0: 100.0, 1: 100.0, 2: 50.0, 3: 1.0, 4: 150.0, 5: 1e18, 6: 100.0}
    steps = paced_steps(16, [*speeds, 9], speeds)
    assert steps == {0: 16, 1: 16, 2: 8, 3: 16 * LEAST_PACE, 4: 24, 5: 16 * MOST_PACE, 6: 16, 9: 16}
    assert paced_steps(1, [3], speeds) == {3: 1}
    assert paced_steps(8, [1, 2], {}) == {1: 8, 2: 8}


def test_who_has_waited_longest_comes_first():
    accepted = {0: 5, 1: 3, 2: 4, 3: 3}
    assert waiting_longest(range(5), accepted, 3) == (1, 3, 4)
    assert waiting_longest([0, 2], accepted, 1) == (2,)
    assert waiting_longest([0, 2], accepted, 9) == (0, 2)


def test_momentum_moves_with_the_part_that_is_nearest_to_a_round():
    """Of merges of three quarters with each; of quarters with every fourth; of halves with every
    second.
    """

    def moved(part: float) -> list[bool]:
        found, gathered = [], 0.0
        for _ in range(4):
            moves, gathered = _due(gathered, part)
            found.append(moves)
        return found

    assert moved(0.75) == [True] * 4
    assert moved(0.25) == [False, False, False, True]
    assert moved(0.5) == [False, True, False, True]


def test_the_average_begins_when_momentum_moves_however_late_updates_are():
    """Late ones are less of a round than their tokens say: by these it is the second round, of
    which the average would be one half, and the first parameters the other.
    """
    fl = load_config(["fl.mode=async", "fl.ema_decay=0.99", "fl.strategy_name=nesterov"]).federation
    late = replace(RULES, staleness_exponent=2.0)
    state = replace(start(outer_of(fl, 1)), moved=(0,))
    seen = []
    for one, moved in ((update(0, 1, 0.2), 0), (update(1, 1, 0.4), 0), (update(0, 3, 0.8), 1),
                       (update(1, 4, 0.8), 1), (update(0, 5, 0.3), 2)):  # fmt: skip
        number = 1 + state.step // 5
        state, _ = merge(state, outer_of(fl, number, state.moved[0]), one, rules=late)
        assert state.moved == (moved,)
        if moved > len(seen):
            seen.append(state.params["w"].clone())
            torch.testing.assert_close(state.outer[EMA]["w"], torch.stack(seen).mean(0))
