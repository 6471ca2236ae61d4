"""What is refused: counts beyond what was asked for, moments that no training makes, outliers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from photon.container.container import digest
from photon.core import gate
from photon.core.codec import FP32, Codecs
from photon.core.gate import GRADIENT, MOST_LOSS
from photon.core.messages import Bounds, MomentBound, ServerState, Update
from photon.core.outer import sgd
from photon.core.round import Rules, close_round, open_round
from photon.core.text import cleaned
from states import copied

PARAMS = {"w": torch.ones(4, 5), "b": torch.ones(5)}
PER_STEP = 10
MOMENTS = {
    "exp_avg": MomentBound(names=("w", "b")),
    "exp_avg_sq": MomentBound(names=("w", "b"), is_square=True),
}


def filled(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(p, value) for name, p in PARAMS.items()}


def opened(server: ServerState | None = None, steps=(5, 5, 5, 5), **bounds):
    server = server or ServerState(round=0, step=0, params=PARAMS, outer={})
    bounds = {"tokens_per_step": PER_STEP, "moments": MOMENTS, **bounds}
    return server, open_round(
        server,
        run="r",
        steps=dict(enumerate(steps)),
        rules=Rules(quorum=1),
        base_digest="d",
        bounds=Bounds(**bounds),
    )


def update_of(plan, client_id: int, /, **changes) -> Update:
    steps = plan.instructions[client_id].local_steps
    base = Update(
        run="r", round=plan.round, client=client_id, gradient=filled(0.1),
        moments={"exp_avg": filled(0.01), "exp_avg_sq": filled(1e-4)},
        num_tokens=steps * PER_STEP, num_steps=steps, base_digest=plan.base_digest,
        metrics={"train_loss": 2.0},
    )  # fmt: skip
    return replace(base, **changes)


def close(server, plan, updates, **rules):
    rules = Rules(quorum=1, **rules)
    return close_round(copied(server), plan, updates, outer=sgd(lr=1.0), rules=rules)


def reason_for(server, plan, bad: Update, **rules) -> str:
    """Why it is refused; the round is that of the others alone."""
    good = [
        update_of(plan, client)
        for client in plan.cohort
        if client not in {bad.client, *bad.clients}
    ]
    after, report = close(server, plan, [bad, *good], **rules)
    clean, _ = close(server, plan, good, **rules)
    assert digest(after.params) == digest(clean.params)
    assert (after.step, after.num_tokens) == (clean.step, clean.num_tokens)
    return report.refused[bad.client]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_tokens": 10**15}, "trained on 1000000000000000 tokens, its steps have 50"),
        ({"num_tokens": 51}, "its steps have 50"),
        ({"num_tokens": 49}, "its steps have 50"),
        ({"num_tokens": 40}, "its steps have 50"),
        ({"metrics": {"train_loss": 2.0, "skipped_steps": 1.0}}, "its steps have 40"),
        ({"metrics": {"train_loss": 2.0, "skipped_steps": -1.0}}, "skipped -1 of its 5"),
        ({"metrics": {"train_loss": 2.0, "skipped_steps": 6.0}}, "skipped 6 of its 5"),
        ({"num_steps": 10**9}, "took 1000000000 steps, 5 were asked for"),
        ({"num_steps": 0}, "took 0 steps"),
        ({"num_steps": 4}, "its steps have 40"),
        ({"metrics": {}}, "train_loss is nan"),
        ({"metrics": {"train_loss": 1e308}}, "no loss of a model"),
        ({"metrics": {"train_loss": -3.0}}, "no loss of a model"),
        ({"covers": (0, 0)}, "says that it is of clients"),
        ({"covers": (1, 2)}, "says that it is of clients"),
        ({"gradient": {n: v.long() for n, v in filled(1).items()}}, "torch.int64"),
    ],
)
def test_what_was_not_asked_for_is_refused(changes, reason):
    server, plan = opened()
    assert reason in reason_for(server, plan, update_of(plan, 0, **changes))


def test_a_folded_update_has_the_tokens_of_its_clients():
    server, plan = opened(steps=(5, 3, 5))
    folded = update_of(plan, 0, covers=(0, 1), num_tokens=80)
    _, report = close(server, plan, [folded])
    assert report.accepted == (0, 1)
    assert "its steps have 80" in reason_for(server, plan, replace(folded, num_tokens=81))
    assert "its steps have 80" in reason_for(server, plan, replace(folded, num_tokens=79))
    skipped = replace(folded, num_tokens=70, metrics={"train_loss": 2.0, "skipped_steps": 0.5})
    assert close(server, plan, [skipped])[1].accepted == (0, 1)


def test_steps_that_a_client_skips_have_no_tokens():
    server, plan = opened()
    skipping = update_of(plan, 0, num_tokens=4 * PER_STEP,
                         metrics={"train_loss": 2.0, "skipped_steps": 1.0})  # fmt: skip
    assert close(server, plan, [skipping])[1].accepted == (0,)


def test_the_first_to_answer_does_not_decide_which_moments_are_expected():
    server, plan = opened()
    assert "moments none, expected exp_avg" in reason_for(
        server, plan, update_of(plan, 0, moments={})
    )


@pytest.mark.parametrize(
    ("moment", "value", "reason"),
    [
        ("exp_avg_sq", -1e-6, "exp_avg_sq is negative"),
        ("exp_avg_sq", math.nan, "exp_avg_sq is not finite"),
        ("exp_avg_sq", 1e20, "exp_avg_sq: norm 5e+20 is more than 25 times the median"),
        ("exp_avg", 1e20, "exp_avg: norm 5e+20 is more than 5 times the median"),
    ],
)
def test_moments_that_no_training_makes_are_refused(moment, value, reason):
    server, plan = opened()
    bad = update_of(plan, 0)
    bad = replace(bad, moments={**bad.moments, moment: filled(value)})
    assert reason in reason_for(server, plan, bad, max_norm_ratio=5.0)


def test_bounds_hold_from_the_first_round_and_for_a_single_client():
    bounded = {n: replace(b, norm=0.1) for n, b in MOMENTS.items()}
    server, plan = opened(steps=(5, 5), norm=1.0, moments=bounded)
    large = update_of(plan, 0, gradient=filled(-0.3))
    assert "pseudo-gradient: norm 1.5 is more than its steps can make, 1" in reason_for(
        server, plan, large
    )
    bad = update_of(plan, 0)
    bad = replace(bad, moments={**bad.moments, "exp_avg": filled(0.03)})
    assert "exp_avg: norm 0.15 is more" in reason_for(server, plan, bad)


@pytest.mark.parametrize(("before", "accepted"), [(None, (0, 1)), (0.05, (1,))])
def test_a_moment_is_compared_with_what_clients_started_from(before, accepted):
    """Of two clients alone nobody could say whose is too large."""
    known = {n: replace(b, before=before) for n, b in MOMENTS.items()}
    server, plan = opened(steps=(5, 5), moments=known)
    usual = update_of(plan, 1)
    large = replace(update_of(plan, 0), moments={**usual.moments, "exp_avg": filled(0.5)})
    _, report = close(server, plan, [large, usual], max_norm_ratio=3.0)
    assert report.accepted == accepted
    assert all(why.startswith("exp_avg: norm 2.5 is more") for why in report.refused.values())


def norms_after(server, plan, sizes, **rules):
    updates = [update_of(plan, c, gradient=filled(size)) for c, size in enumerate(sizes)]
    return close(server, plan, updates, max_norm_ratio=3.0, **rules)


def test_a_larger_learning_rate_makes_no_outlier():
    """The last round had a hundredth of this one's rate; without it the update is an outlier."""
    server, plan = opened(steps=(5, 5, 5), rate=0.01)
    server, _ = norms_after(server, plan, [0.001] * 3)
    _, raised = opened(server, steps=(5,), rate=1.0)
    assert norms_after(server, raised, [0.1])[1].accepted == (0,)
    assert norms_after(server, raised, [0.1])[0].norms[-1].size == pytest.approx(0.5)
    _, same = opened(server, steps=(5, 5), rate=0.01)
    assert "times the median" in norms_after(server, same, [0.1, 0.001])[1].refused[0]


def cooled(gain: float):
    """A state with three norms of 0.1 each, and a round at a hundredth of their learning rate."""
    feedback = Codecs(FP32._replace(gain=gain))
    server, plan = opened(steps=(5, 5, 5), rate=1.0)
    server, _ = norms_after(server, replace(plan, up=feedback), [0.1] * 3)
    _, plan = opened(server, steps=(5, 5), rate=0.01)
    return server, replace(plan, up=feedback)


def test_what_a_codec_lost_at_a_higher_learning_rate_may_come_at_a_lower_one():
    assert norms_after(*cooled(gain=2.0), [0.1, 0.1])[1].accepted == (0, 1)
    assert list(norms_after(*cooled(gain=2.0), [0.1, 1.0])[1].refused) == [1]
    assert list(norms_after(*cooled(gain=1.0), [0.001, 0.1])[1].refused) == [1]


def test_norms_of_earlier_rounds_are_not_forgotten():
    """Half of this round is too large; the rounds before say which half."""
    server, plan = opened()
    server, _ = norms_after(server, plan, [0.1, 0.1])
    server, _ = norms_after(server, opened(server)[1], [0.1, 0.1])
    assert len(server.norms) == 4
    report = norms_after(server, opened(server)[1], [0.1, 1.0])[1]
    assert (report.accepted, list(report.refused)) == ((0,), [1])


def test_more_steps_go_farther_and_fewer_are_held_to_the_others():
    server, plan = opened(steps=(40, 4, 4, 4))
    assert len(norms_after(server, plan, [1.0, 0.1, 0.1, 0.1])[1].accepted) == 4
    assert 0 in norms_after(server, plan, [4.0, 0.1, 0.1, 0.1])[1].refused
    assert 1 in norms_after(server, plan, [0.1, 0.4, 0.1, 0.1])[1].refused


def test_only_what_may_be_too_large_is_compared_with_every_other(monkeypatch):
    """Each with all others takes seconds where there are thousands."""
    compared, fault = [], gate.norm_fault

    def noted(size, norms, max_ratio):
        compared.append(size)
        return fault(size, norms, max_ratio)

    monkeypatch.setattr(gate, "norm_fault", noted)
    server, plan = opened(steps=(5,) * 40)
    taken = {client: update_of(plan, client) for client in range(40)}
    usual = {GRADIENT: 1.0, "exp_avg": 1.0, "exp_avg_sq": 1.0}
    sizes = dict.fromkeys(range(40), usual) | {7: usual | {GRADIENT: 4.0, "exp_avg_sq": 10.0}}
    found = gate.outliers(taken, sizes, plan, server, 3.0)
    assert (list(found), compared) == ([7], [4.0, 10.0])
    assert gate.outliers({}, {}, plan, server, 3.0) == {}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_refused_update_that_comes_again_rightly_is_accepted(order):
    """And not refused as well, whichever comes first."""
    server, plan = opened()
    updates = [update_of(plan, 0, num_tokens=0), update_of(plan, 0)]
    report = close(server, plan, [updates[index] for index in order])[1]
    assert (report.accepted, dict(report.refused)) == ((0,), {})


def test_no_loss_makes_a_round_infinite():
    server, plan = opened(tokens_per_step=2**53 // 5)
    updates = [
        update_of(plan, c, num_tokens=2**53 // 5 * 5, metrics={"train_loss": MOST_LOSS})
        for c in range(4)
    ]
    assert close(server, plan, updates)[1].train_loss == pytest.approx(MOST_LOSS)


def test_text_of_others_is_one_short_line():
    assert cleaned("plain ü text") == "plain ü text"
    assert cleaned("a\x1b[2J\nb\u202ec\x00") == "a [2J b c "
    assert len(cleaned("x" * 10**6)) == 500
    assert cleaned("x" * 10**6).endswith(" ...")
