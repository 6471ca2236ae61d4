"""A round: the mean against numpy, order, weights, refusals, quorum, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from photon.container.container import digest
from photon.core import aggregate
from photon.core.aggregate import weighted_mean
from photon.core.codec import BF16, FP32, Codecs, decode, encode
from photon.core.cohort import choose_cohort
from photon.core.diagnostics import (
    consensus_distance,
    noise_scale,
)
from photon.core.held import descent
from photon.core.messages import Bounds, MomentBound, Norm, ServerState, Update
from photon.core.outer import sgd
from photon.core.round import Rules, close_round, open_round, skip_round
from photon.core.seeds import derive_seed
from photon.core.tree import norm, num_bytes
from photon.errors import RoundFailed
from states import copied

SHAPES = {"w": (7, 5), "b": (3,)}


def tree(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}


def state() -> ServerState:
    return ServerState(round=0, step=0, params=tree(0), outer={})


def plan_for(server: ServerState, clients: int = 4, bounds: Bounds | None = None):
    steps = dict.fromkeys(range(clients), 5)
    return open_round(
        server,
        run="r",
        steps=steps,
        rules=Rules(quorum=1, up=Codecs(BF16, BF16)),
        base_digest="d",
        bounds=bounds,
    )


def update_of(plan, client_id: int, /, **changes) -> Update:
    gradient = encode(tree(100 + client_id), plan.up.gradient)[0]
    base = Update(
        run="r",
        round=plan.round,
        client=client_id,
        gradient=gradient,
        moments={},
        num_tokens=10 + client_id,
        num_steps=5,
        base_digest=plan.base_digest,
        metrics={"train_loss": 1.0 + client_id},
    )
    return replace(base, **changes)


def close(server, plan, updates, quorum=1):
    rules = Rules(quorum=quorum)
    return close_round(copied(server), plan, updates, outer=sgd(lr=1.0), rules=rules)


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_mean_is_numpy_in_float64(chunk, monkeypatch):
    monkeypatch.setattr(aggregate, "MOST_ELEMENTS", chunk)
    monkeypatch.setattr(aggregate, "FEWEST_ELEMENTS", 1)
    trees, weights = [tree(s) for s in range(5)], [1.0, 7.0, 2.5, 100.0, 3.0]
    mean = weighted_mean(trees, weights)
    for name in SHAPES:
        stacked = np.stack([t[name].numpy().astype(np.float64) for t in trees])
        expected = np.average(stacked, axis=0, weights=weights).astype(np.float32)
        np.testing.assert_allclose(mean[name].numpy(), expected, rtol=1e-7)
        assert mean[name].dtype == torch.float32


def test_mean_needs_weight():
    with pytest.raises(ValueError, match="positive total weight"):
        weighted_mean([tree(0)], [0.0])
    with pytest.raises(ValueError, match="positive total weight"):
        weighted_mean([], [])


def test_any_arrival_order_gives_the_same_bits():
    server = state()
    plan = plan_for(server)
    updates = [update_of(plan, client, num_tokens=1) for client in range(4)]
    for update, value in zip(updates, (1e30, -1e30, 1.0, 3.0), strict=True):
        # Even a sum in float64 depends on the order of these.
        update.gradient["w"][0, 0] = value
    digests = {digest(close(server, plan, order)[0].params) for order in permutations(updates)}
    assert len(digests) == 1


def test_weights_are_the_tokens_of_the_round():
    server = state()
    plan = plan_for(server, 2)
    updates = [update_of(plan, 0, num_tokens=300), update_of(plan, 1, num_tokens=100)]
    new, report = close(server, plan, updates)
    a, b = (decode(u.gradient, server.params, BF16) for u in updates)
    for name in SHAPES:
        expected = server.params[name].double() - (3 * a[name].double() + b[name].double()) / 4
        torch.testing.assert_close(new.params[name], expected.float())
    assert report.train_loss == pytest.approx((3 * 1.0 + 2.0) / 4)
    assert new.num_tokens == 400
    assert new.step == 5
    assert new.last_accepted == {0: 1, 1: 1}


def test_speeds_are_those_measured_last():
    server = replace(state(), speeds={1: 70.0, 3: 30.0})
    plan = plan_for(server, 3)
    said = [{"train_loss": 1.0, "tokens_per_second": speed} for speed in (50.0, 0.0, 20.0)]
    updates = [update_of(plan, c, metrics=metrics) for c, metrics in enumerate(said)]
    stepped, _ = close(server, plan, updates)
    assert stepped.speeds == {0: 50.0, 1: 70.0, 2: 20.0, 3: 30.0}


def test_moments_are_averaged_and_not_stepped():
    server = state()
    plan = plan_for(server, 2, Bounds(moments={"exp_avg": MomentBound(names=tuple(SHAPES))}))
    moments = [{"exp_avg": encode(tree(7 + c), BF16)[0]} for c in range(2)]
    updates = [update_of(plan, c, moments=moments[c], num_tokens=50) for c in range(2)]
    outer = sgd(lr=0.5, momentum=0.9)
    server = replace(server, outer=outer.init(server.params))
    new, _ = close_round(copied(server), plan, updates, outer=outer, rules=Rules(quorum=2))
    for name in SHAPES:
        expected = sum(m["exp_avg"][name].float() for m in moments) / 2
        torch.testing.assert_close(new.moments["exp_avg"][name], expected)


def spoiled(value: float) -> dict[str, torch.Tensor]:
    gradient = tree(3)
    gradient["w"][2, 2] = value
    return encode(gradient, BF16)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 9}, "stale"),
        ({"run": "other"}, "stale"),
        ({"client": 77}, "not in the cohort"),
        ({"base_digest": "0" * 32}, "other parameters"),
        ({"num_tokens": 0}, "0 tokens"),
        ({"gradient": spoiled(float("nan"))}, "not finite"),
        ({"gradient": spoiled(float("inf"))}, "not finite"),
        ({"gradient": {"w": torch.zeros(7, 5)}}, "b is on one side only"),
        ({"gradient": {"w": torch.zeros(5, 7), "b": torch.zeros(3)}}, "shape"),
        ({"moments": {"exp_avg": {"w": torch.zeros(2)}}}, "moments"),
    ],
)
def test_a_refused_update_leaves_no_trace(changes, reason):
    server = state()
    plan = plan_for(server)
    good = [update_of(plan, client) for client in range(1, 4)]
    bad = update_of(plan, 0, **changes)
    new, report = close(server, plan, [*good, bad], quorum=3)
    clean, _ = close(server, plan, good, quorum=3)
    assert digest(new.params) == digest(clean.params)
    assert reason in report.refused[bad.client]
    assert bad.client not in new.last_accepted


def test_a_second_update_of_a_client_is_ignored():
    server = state()
    plan = plan_for(server, 2)
    updates = [update_of(plan, 0), update_of(plan, 0, num_tokens=999), update_of(plan, 1)]
    new, report = close(server, plan, updates)
    assert new.num_tokens == 10 + 11
    assert report.accepted == (0, 1)


def test_too_few_updates_fail_the_round_with_reasons():
    server = state()
    plan = plan_for(server, 2)
    bad = update_of(plan, 1, num_tokens=0)
    with pytest.raises(RoundFailed, match=r"1 of 2 updates .*client 1: trained on 0 tokens"):
        close(server, plan, [update_of(plan, 0), bad], quorum=2)


def test_codec_is_exact_for_fp32_and_bounded_for_bf16():
    small = {"x": tree(5)["w"] * 1e-9}
    back = {codec: decode(encode(small, codec)[0], small, codec)["x"] for codec in (FP32, BF16)}
    assert torch.equal(back[FP32], small["x"])
    error = (back[BF16] - small["x"]).abs()
    assert bool((error <= small["x"].abs() * 2**-8).all())
    assert num_bytes(encode(small, BF16)[0]) == 2 * 35


def test_seeds_are_addresses():
    assert derive_seed(1, "cohort", 3) == derive_seed(1, "cohort", 3)
    addresses = {derive_seed(s, p, r) for s in (1, 2) for p in ("a", "b") for r in range(5)}
    assert len(addresses) == 20
    assert all(0 <= address < 2**63 for address in addresses)


def test_cohorts_depend_on_their_address_only():
    first = [choose_cohort(5, r, range(20), 6) for r in range(1, 30)]
    assert first == [choose_cohort(5, r, list(reversed(range(20))), 6) for r in range(1, 30)]
    assert all(len(set(c)) == 6 and c == tuple(sorted(c)) for c in first)
    assert len(set(first)) > 25
    counts = np.bincount([c for cohort in first for c in cohort], minlength=20)
    assert counts.min() > 0
    assert choose_cohort(5, 1, [3, 1], 6) == (1, 3)


def test_digest_sees_every_bit():
    a = tree(1)
    b = {n: v.clone() for n, v in a.items()}
    assert digest(a) == digest(b)
    b["w"][0, 0] = torch.nextafter(b["w"][0, 0], torch.tensor(100.0))
    assert digest(a) != digest(b)


def late_round():
    """A server after its first round that takes late updates, and the rules."""
    rules = Rules(quorum=1, up=Codecs(BF16, BF16), staleness_exponent=0.5, max_staleness=2)
    server = state()
    plan = open_round(server, run="r", steps={0: 5, 1: 5}, rules=rules, base_digest="d")
    late = update_of(plan, 1, num_tokens=40)
    server, _ = close_round(
        copied(server), plan, [update_of(plan, 0)], outer=sgd(lr=1.0), rules=rules
    )
    return server, late, rules


def test_a_late_update_weighs_less_and_counts_once():
    server, late, rules = late_round()
    plan = open_round(server, run="r", steps={0: 5}, rules=rules, base_digest="d")
    fresh = update_of(plan, 0, num_tokens=40)
    new, report = close_round(copied(server), plan, [fresh, late], outer=sgd(lr=1.0), rules=rules)
    weight = 2**-0.5
    for name in SHAPES:
        a, b = (decode(u.gradient, server.params, BF16)[name].double() for u in (fresh, late))
        expected = server.params[name].double() - (a + weight * b) / (1 + weight)
        torch.testing.assert_close(new.params[name], expected.float())
    assert report.late == {1: 1}
    assert new.last_accepted == {0: 2, 1: 1}, "its state is the one after round 1"
    plan = open_round(new, run="r", steps={0: 5}, rules=rules, base_digest="d")
    again, report = close_round(
        copied(new), plan, [update_of(plan, 0), late], outer=sgd(lr=1.0), rules=rules
    )
    assert "has been applied" in report.refused[1]
    assert again.last_accepted[1] == 1


def test_an_update_that_is_too_late_is_refused():
    server, late, rules = late_round()
    for _ in range(2):
        plan = open_round(server, run="r", steps={0: 5}, rules=rules, base_digest="d")
        server, _ = close_round(
            copied(server), plan, [update_of(plan, 0)], outer=sgd(lr=1.0), rules=rules
        )
    plan = open_round(server, run="r", steps={0: 5, 1: 5}, rules=rules, base_digest="d")
    _, report = close_round(
        copied(server), plan, [update_of(plan, 0), late], outer=sgd(lr=1.0), rules=rules
    )
    assert "stale" in report.refused[1]


def test_who_was_late_for_a_round_that_was_given_up_comes_in_the_next_one():
    """Slow clients are why a round is given up; it may have been opened, or not."""
    rules = Rules(quorum=2, up=Codecs(BF16, BF16), staleness_exponent=0.5, max_staleness=2)
    server = state()
    plan = open_round(server, run="r", steps={0: 5, 1: 5}, rules=rules, base_digest="d")
    late = update_of(plan, 1)
    server, _ = skip_round(server, plan, rules)
    server, _ = skip_round(server, None, rules)
    plan = open_round(server, run="r", steps={0: 5}, rules=rules, base_digest="d")
    _, report = close_round(
        copied(server), plan, [update_of(plan, 0), late], outer=sgd(lr=1.0), rules=rules
    )
    assert (report.accepted, report.late) == ((0, 1), {1: 2})


def test_late_updates_are_stale_where_nothing_else_is_said():
    server = state()
    plan = plan_for(server, 2)
    late = update_of(plan, 1)
    server, _ = close(server, plan, [update_of(plan, 0)])
    plan = plan_for(server, 2)
    _, report = close(server, plan, [update_of(plan, 0), late])
    assert "stale" in report.refused[1]


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 2), ("linear", 4)])
def test_a_scaled_pseudo_gradient_moves_so_much_further(scaling, factor):
    server = state()
    plan = plan_for(server)
    updates = [update_of(plan, client, num_tokens=1) for client in range(4)]
    rules = Rules(quorum=4, up=Codecs(BF16, BF16), scaling=scaling)
    new, report = close_round(copied(server), plan, updates, outer=sgd(lr=1.0), rules=rules)
    moved = {n: server.params[n] - new.params[n] for n in SHAPES}
    assert norm(moved) == pytest.approx(factor * report.gradient_norm, rel=1e-5)


def test_an_update_of_some_parameters_moves_those_only():
    server = replace(state(), outer={"momentum": tree(5)})
    rules = Rules(quorum=1, up=Codecs(BF16, BF16))
    plan = open_round(server, run="r", steps={0: 5}, rules=rules, base_digest="d", trained=("b",))
    update = update_of(plan, 0, gradient=encode({"b": tree(9)["b"]}, BF16)[0])
    outer = sgd(lr=1.0, momentum=0.9)
    new, _ = close_round(copied(server), plan, [update], outer=outer, rules=rules)
    assert torch.equal(new.params["w"], server.params["w"])
    assert torch.equal(new.outer["momentum"]["w"], server.outer["momentum"]["w"])
    assert not torch.equal(new.params["b"], server.params["b"])
    assert list(new.params) == list(server.params)
    _, report = close_round(
        copied(server), plan, [update, update_of(plan, 0)], outer=outer, rules=rules
    )
    assert report.accepted == (0,)


def test_drift_is_the_distance_from_the_mean():
    gradients, weights = [tree(s) for s in range(4)], [1.0, 2.0, 3.0, 4.0]
    mean = weighted_mean(gradients, weights)
    squares = [norm({n: g[n] - mean[n] for n in g}) ** 2 for g in gradients]
    expected = np.average(squares, weights=weights) ** 0.5
    found = consensus_distance([norm(g) for g in gradients], weights, norm(mean))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_noise_scale_of_known_noise():
    """g_k = G + noise of variance s^2 in each of d dimensions: the ratio is d s^2 / |G|^2."""
    generator = np.random.default_rng(3)
    dimensions, deviation, clients = 400, 0.5, 8
    signal = generator.normal(size=dimensions)
    found: dict[str, float] = {}
    for _ in range(400):
        gradients = signal + deviation * generator.normal(size=(clients, dimensions))
        norms = np.linalg.norm(gradients, axis=1)
        found = noise_scale(found, list(norms), np.linalg.norm(gradients.mean(0)), beta=0.99)
    expected = dimensions * deviation**2 / float(signal @ signal)
    assert found["scale"] == pytest.approx(expected, rel=0.02)
    assert found["rounds"] == 400


def test_the_first_noise_scale_is_not_biased_and_one_client_gives_none():
    first = noise_scale({}, [3.0, 4.0], 3.0, beta=0.99)
    trace, square = (12.5 - 9) / 0.5, (2 * 9 - 12.5) / 1
    assert first["raw"] == first["scale"] == pytest.approx(trace / square)
    assert noise_scale({}, [3.0], 3.0, beta=0.99) == {}
    assert noise_scale(first, [3.0], 3.0, beta=0.99) == first


def with_spares(server: ServerState):
    """Clients 0 and 3, and in their place first 2, then 1."""
    steps = dict.fromkeys(range(4), 5)
    opened = open_round(server, run="r", steps=steps, rules=Rules(quorum=1), base_digest="d")
    return replace(opened, spares=(2, 1))


def test_spares_that_are_not_needed_leave_no_trace():
    """The oracle is a round of the two members alone."""
    server = state()
    alone = open_round(server, run="r", steps={0: 5, 3: 5}, rules=Rules(quorum=1), base_digest="d")
    expected, _ = close(server, alone, [update_of(alone, 0), update_of(alone, 3)])
    plan = with_spares(server)
    for clients in permutations(range(4)):
        updates = [update_of(plan, client) for client in clients]
        after, report = close_round(
            copied(server), plan, updates, outer=sgd(lr=1.0), rules=Rules(quorum=1)
        )
        assert (report.accepted, report.spare) == ((0, 3), (1, 2))
        assert replace(after, params={}) == replace(expected, params={})
        assert digest(after.params) == digest(expected.params)


@pytest.mark.parametrize("fault", ["missing", "unsound", "outlier"])
def test_a_spare_takes_the_place_of_one_that_is_not_accepted(fault):
    server = replace(state(), norms=(Norm(6.0, 5, 1.0),) * 3)
    plan = with_spares(server)
    updates = {client: update_of(plan, client) for client in range(4)}
    if fault == "missing":
        del updates[3]
    elif fault == "unsound":
        updates[3] = update_of(plan, 3, num_tokens=0)
    else:
        large = {name: value * 100 for name, value in updates[3].gradient.items()}
        updates[3] = replace(updates[3], gradient=large)
    rules = Rules(quorum=1, up=Codecs(BF16, BF16), max_norm_ratio=5.0)
    _, report = close_round(
        copied(server), plan, list(updates.values()), outer=sgd(lr=1.0), rules=rules
    )
    assert report.accepted == (0, 2)
    assert report.spare == (1,)
    assert list(report.refused) == ([] if fault == "missing" else [3])


def test_of_states_it_is_known_what_they_came_of():
    server, late, rules = late_round()
    first = descent("", late, lost=False)
    assert server.descents == {0: first}, "of client 1 nothing was accepted"
    plan = open_round(server, run="r", steps={0: 5, 1: 5}, rules=rules, base_digest="e")
    assert {c: one.descent for c, one in plan.instructions.items()} == {0: first, 1: ""}
    lost = replace(update_of(plan, 0), state_lost=True)

    def after(update: Update) -> Mapping[int, str]:
        updates = [update]
        return close_round(copied(server), plan, updates, outer=sgd(lr=1.0), rules=rules)[
            0
        ].descents

    assert after(update_of(plan, 0)) == {0: descent(first, lost, lost=False)}
    assert after(lost) == {0: descent("", lost, lost=True)} != after(update_of(plan, 0))
    assert after(replace(lost, covers=(0, 1))) == {}, "one of the two began afresh, or both"
