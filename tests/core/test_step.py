"""The outer step in place, against float64: what it writes, what it says, what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from photon.core import aggregate, tree
from photon.core.aggregate import weighted_mean
from photon.core.codec import BF16, FP32, Codecs, decode, encode
from photon.core.messages import Bounds, MomentBound, ServerState, Update
from photon.core.outer import OuterOptimizer, adaptive, nesterov
from photon.core.policy import Rules
from photon.core.round import close_round, open_round, skip_round
from photon.core.tree import is_negative, norm
from photon.errors import RoundFailed
from states import bits, copied

SHAPES = {"w": (41, 73), "b": (3,), "s": ()}
OUTER = nesterov(lr=0.7, server_momentum=0.9)
MOMENTS = {"m": MomentBound(names=tuple(SHAPES)),
           "v": MomentBound(names=tuple(SHAPES), is_square=True)}  # fmt: skip


@pytest.fixture(autouse=True)
def _several_pieces(monkeypatch):
    """Of a leaf: of 100 elements."""
    monkeypatch.setattr(aggregate, "BLOCK_BYTES", 1)
    monkeypatch.setattr(aggregate, "FEWEST_ELEMENTS", 100)
    monkeypatch.setattr(tree, "PIECE_ELEMENTS", 100)


def values(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * scale for n, s in SHAPES.items()}


def opened(clients: int = 3, codec=BF16, outer: OuterOptimizer = OUTER, **rules):
    params = values(0)
    moments = {name: encode(values(50), codec)[0] for name in MOMENTS}
    state = ServerState(round=0, step=0, params=params, outer=outer.init(params), moments=moments)
    asked = Rules(
        **{"quorum": clients, "up": Codecs(codec, codec), "down": Codecs(codec, codec), **rules}
    )
    plan = open_round(state, run="r", steps=dict.fromkeys(range(clients), 5), rules=asked,
                      base_digest="d", bounds=Bounds(moments=MOMENTS))  # fmt: skip
    return state, plan, asked


def update_of(plan, client: int, **changes) -> Update:
    square = {name: value**2 for name, value in values(300 + client).items()}
    sent = [
        encode(t, plan.up.gradient)[0] for t in (values(100 + client), values(200 + client), square)
    ]
    update = Update(
        run="r", round=plan.round, client=client, gradient=sent[0],
        moments=dict(zip(MOMENTS, sent[1:], strict=True)), num_tokens=10 + client, num_steps=5,
        base_digest=plan.base_digest, metrics={"train_loss": 1.0},
    )  # fmt: skip
    return replace(update, **changes)


def flat(any_tree) -> np.ndarray:
    return np.concatenate([v.detach().double().reshape(-1).numpy() for v in any_tree.values()])


def functional(outer: OuterOptimizer) -> OuterOptimizer:
    """The same rule of whole trees, which leaves its arguments alone."""

    def step(params, gradient, state):
        clone = lambda own: {name: value.clone() for name, value in own.items()}  # noqa: E731
        return outer.step(clone(params), clone(gradient), {k: clone(t) for k, t in state.items()})

    return OuterOptimizer(outer.init, step)


@pytest.mark.parametrize("codec", [BF16, FP32])
@pytest.mark.parametrize("whole", [False, True])
def test_numbers_of_a_round_are_those_of_float64(codec, whole):
    state, plan, rules = opened(codec=codec)
    updates = [update_of(plan, client) for client in range(3)]
    last, before, momentum = values(9), flat(state.params), values(8)
    state.outer["momentum"] = momentum
    velocity = flat(momentum)
    sent = [flat(decode(u.gradient, state.params, codec)) for u in updates]
    outer = functional(OUTER) if whole else OUTER
    after, report = close_round(state, plan, updates, outer=outer, rules=rules, last=last)
    mean = np.average(sent, axis=0, weights=[10, 11, 12])
    velocity = 0.9 * velocity + mean
    expected = before - 0.7 * (mean + 0.9 * velocity)
    np.testing.assert_allclose(flat(after.params), expected, rtol=2e-6, atol=5e-7)
    np.testing.assert_allclose(flat(after.outer["momentum"]), velocity, rtol=2e-6, atol=5e-7)
    size = np.linalg.norm
    turned = flat(last) - before
    assert report.gradient_norm == pytest.approx(size(mean), rel=1e-6)
    assert report.parameter_norm == pytest.approx(size(expected), rel=1e-6)
    assert report.outer_norms == {"momentum": pytest.approx(size(velocity), rel=1e-6)}
    angle = mean @ turned / size(mean) / size(turned)
    assert report.cosine_to_last_step == pytest.approx(angle, rel=1e-4)
    for client, own in enumerate(sent):
        assert report.client_norms[client] == pytest.approx(size(own), rel=1e-6)
        angle = own @ mean / size(own) / size(mean)
        assert report.client_cosines[client] == pytest.approx(angle, rel=1e-5)
    ends = {"w": slice(0, 2993), "b": slice(2993, 2996), "s": slice(2996, 2997)}
    for name, at in ends.items():
        assert report.gradient_layer_norms[name] == pytest.approx(size(mean[at]), rel=1e-6)
        assert report.parameter_layer_norms[name] == pytest.approx(size(expected[at]), rel=1e-5)


@pytest.mark.parametrize("codec", [BF16, FP32])
@pytest.mark.parametrize("outer", [OUTER, adaptive("yogi", eta=0.1, beta_1=0.9, tau=1e-3)])
def test_the_bits_do_not_depend_on_threads_nor_on_the_order_of_arrival(codec, outer):
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            state, plan, rules = opened(codec=codec, outer=outer)
            updates = [update_of(plan, client) for client in range(3)]
            after, report = close_round(state, plan, updates[::-1] if count == 2 else updates,
                                        outer=outer, rules=rules, last=values(9))  # fmt: skip
            found.append((bits(after), report))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]


def test_the_next_state_is_in_the_memory_of_the_last():
    state, plan, rules = opened()
    places = [v.data_ptr() for t in (state.params, *state.outer.values(), *state.moments.values())
              for v in t.values()]  # fmt: skip
    before = bits(copied(state))
    after, _ = close_round(state, plan, [update_of(plan, c) for c in range(3)], outer=OUTER,
                           rules=rules)  # fmt: skip
    trees = (after.params, *after.outer.values(), *after.moments.values())
    assert [v.data_ptr() for t in trees for v in t.values()] == places
    assert not set(bits(after)) & set(before)


def spoiled(plan, client: int, what: str) -> Update:
    update = update_of(plan, client)
    if what == "nan":
        update.gradient["s"].fill_(math.nan)
    elif what == "negative":
        update.moments["v"]["w"][-1, -1] = -1e-3
    elif what == "outlier":
        update.gradient["w"].mul_(100)
    else:
        return replace(update, num_tokens=0)
    return update


@pytest.mark.parametrize("what", ["nan", "negative", "outlier", "tokens"])
def test_what_is_refused_leaves_the_state_bit_for_bit(what):
    """As part of a round that fails; and in one that is closed, that of the others alone."""
    state, plan, rules = opened(clients=4, max_norm_ratio=5.0)
    before = bits(state)
    updates = [*(update_of(plan, c) for c in range(3)), spoiled(plan, 3, what)]
    with pytest.raises(RoundFailed, match="3 of 4 updates needed"):
        close_round(state, plan, updates, outer=OUTER, rules=rules)
    assert bits(state) == before
    three = replace(rules, quorum=3)
    alone, _ = close_round(copied(state), plan, updates[:3], outer=OUTER, rules=three)
    after, report = close_round(state, plan, updates, outer=OUTER, rules=three)
    assert list(report.refused) == [3]
    assert bits(after) == bits(alone)


def test_a_round_that_is_skipped_says_what_stays():
    state, plan, rules = opened()
    _, report = skip_round(state, plan, rules)
    assert report.parameter_norm == pytest.approx(np.linalg.norm(flat(state.params)))
    assert report.parameter_layer_norms["b"] == pytest.approx(float(state.params["b"].norm()))
    assert report.outer_norms == {"momentum": 0.0}


@pytest.mark.parametrize("clients", [2, 4, 8])
def test_equal_weights_have_the_bits_of_float64(clients):
    trees = [encode(values(seed), BF16)[0] for seed in range(clients)]
    mean = weighted_mean(trees, [16384.0] * clients)
    exact = sum(flat(one) for one in trees) / clients
    np.testing.assert_array_equal(flat(mean), exact.astype(np.float32))


def test_other_weights_cost_a_unit_in_the_last_place_for_each_client():
    trees = [encode(values(seed), BF16)[0] for seed in range(8)]
    weights = [1000.0 + 77.7 * client for client in range(8)]
    exact = np.average([flat(one) for one in trees], axis=0, weights=weights)
    largest = np.max([abs(flat(one)) for one in trees], axis=0)
    error = abs(flat(weighted_mean(trees, weights)) - exact)
    assert (error <= 8 * 2.0**-24 * largest).all()


def test_a_mean_is_no_larger_than_what_it_is_of():
    largest = {"w": torch.full((7,), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)}
    mean = weighted_mean([largest] * 5, [3.0] * 5)
    torch.testing.assert_close(mean["w"], largest["w"].float())


@pytest.mark.parametrize("size", [1e30, 1.0, 1e-25, 0.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_norm_is_right_for_large_and_small_numbers(size, dtype):
    size = min(size, 1e4) if dtype == torch.float16 else size
    row = torch.linspace(-1, 1, 1001, dtype=torch.float64).mul(size).to(dtype)
    exact = float(np.linalg.norm(row.double().numpy()))
    assert norm({"w": row, "b": row[:3]}) == pytest.approx(
        math.hypot(exact, float(np.linalg.norm(row[:3].double().numpy()))), rel=1e-6
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_of_what_is_not_finite_is_not(bad):
    row = torch.zeros(1001, dtype=torch.bfloat16)
    row[777] = bad
    assert not math.isfinite(norm({"w": row}))
    assert not is_negative({"w": row.abs()})
    assert is_negative({"w": torch.tensor([1.0] * 900 + [-1e-30])})
