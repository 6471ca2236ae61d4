"""Outer optimizers against torch.optim, the papers' recursions, and two laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from photon.config import load_config
from photon.core.outer import (
    EMA,
    OuterOptimizer,
    adaptive,
    averaging,
    ema_decay,
    nesterov,
    outer_factor,
    sgd,
)
from photon.errors import ConfigError
from photon.points import OUTER_OPTIMIZERS
from photon.run.outer import outer_of

SHAPES = {"a": (3, 4), "b": (5,)}


def tree(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.7, False), (0.9, True), (0.7, True)]
)
def test_sgd_family_is_torch_sgd(momentum, nesterov):
    params = tree(0)
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in params.items()}
    reference = torch.optim.SGD(theirs.values(), lr=0.7, momentum=momentum, nesterov=nesterov)
    outer = sgd(lr=0.7, momentum=momentum, nesterov=nesterov)
    state = outer.init(params)
    for step in range(6):
        gradient = tree(step + 1)
        for name, parameter in theirs.items():
            parameter.grad = gradient[name].clone()
        reference.step()
        params, state = outer.step(params, gradient, state)
    for name in params:
        torch.testing.assert_close(params[name], theirs[name].detach())


def test_fedmom_is_the_recursion_of_its_paper():
    """Huo et al. 2020: w = x - lr g; x' = w + mu (w - w_before), w_before = x_0 at the start."""
    lr, mu = 0.7, 0.6
    outer = nesterov(lr=lr, server_momentum=mu)
    params = {"a": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    state = outer.init(params)
    x = before = params["a"].numpy().copy()
    for step in range(5):
        g = np.array([0.3, -0.1]) * (step + 1)
        w = x - lr * g
        x, before = w + mu * (w - before), w
        params, state = outer.step(params, {"a": torch.from_numpy(g)}, state)
        np.testing.assert_allclose(params["a"].numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("rule", ["adagrad", "adam", "yogi"])
def test_adaptive_family_is_reddi_et_al(rule):
    lr, b1, b2, tau = 0.1, 0.9, 0.99, 1e-2
    outer = adaptive(rule, eta=lr, beta_1=b1, beta_2=b2, tau=tau)
    params = {"a": torch.tensor([1.0, -1.0], dtype=torch.float64)}
    state = outer.init(params)
    x, m, v = np.array([1.0, -1.0]), np.zeros(2), np.full(2, tau**2)
    for step in range(4):
        g = np.array([0.5, -0.02]) / (step + 1)
        m = b1 * m + (1 - b1) * g
        v = {
            "adagrad": v + g**2,
            "adam": b2 * v + (1 - b2) * g**2,
            "yogi": v - (1 - b2) * g**2 * np.sign(v - g**2),
        }[rule]
        x = x - lr * m / (np.sqrt(v) + tau)
        params, state = outer.step(params, {"a": torch.from_numpy(g)}, state)
        np.testing.assert_allclose(params["a"].numpy(), x, rtol=1e-12)


def named(strategy: str) -> OuterOptimizer:
    return outer_of(load_config([f"fl.strategy_name={strategy}"]).federation, 1)


@pytest.mark.parametrize("strategy", OUTER_OPTIMIZERS)
def test_zero_changes_nothing_and_positive_lowers(strategy):
    outer = named(strategy)
    params, before = tree(0), tree(0)
    zero = {name: torch.zeros_like(value) for name, value in params.items()}
    same, state = outer.step(params, zero, outer.init(params))
    assert all(torch.equal(same[name], before[name]) for name in before)
    ones = {name: torch.ones_like(value) for name, value in params.items()}
    lower, _ = outer.step(same, ones, state)
    assert all(bool((lower[name] < before[name]).all()) for name in before)


@pytest.mark.parametrize("strategy", OUTER_OPTIMIZERS)
def test_a_step_is_the_same_piece_by_piece_and_in_place(strategy):
    outer = named(strategy)
    assert outer.elementwise
    whole, whole_state = tree(0), outer.init(tree(0))
    params, state = tree(0), outer.init(tree(0))
    places = [value.data_ptr() for value in params.values()]
    for round_number in (1, 2, 3):
        gradient = tree(round_number)
        given = {name: value.clone() for name, value in gradient.items()}
        whole, whole_state = outer.step(whole, given, whole_state)
        for name, value in params.items():
            for at in range(value.numel()):
                part = slice(at, at + 1)
                kept = {key: {name: own[name].view(-1)[part]} for key, own in state.items()}
                given = {name: gradient[name].view(-1)[part].clone()}
                outer.step({name: value.view(-1)[part]}, given, kept)
    assert [value.data_ptr() for value in params.values()] == places
    for name in params:
        torch.testing.assert_close(params[name], whole[name], rtol=1e-6, atol=0)
        for key, own in state.items():
            torch.testing.assert_close(own[name], whole_state[key][name], rtol=1e-6, atol=0)


def test_defaults_of_the_table_reach_the_rule_they_are_of():
    """A first step of each by hand, on g = 0.5."""
    tau = 1e-3
    lowered = {
        "FEDAVG": 0.5,
        "FEDAVGM": 0.7 * 0.5,
        "NESTEROV": 0.7 * (0.5 + 0.7 * 0.5),
        "FEDMOM": 0.7 * (0.5 + 0.7 * 0.5),
        "FEDADAGRAD": 0.01 * 0.5 / (math.sqrt(tau**2 + 0.25) + tau),
        "FEDADAM": 0.01 * 0.05 / (math.sqrt(0.99 * tau**2 + 0.01 * 0.25) + tau),
        "FEDYOGI": 0.01 * 0.05 / (math.sqrt(tau**2 + 0.01 * 0.25) + tau),
    }
    assert lowered.keys() == OUTER_OPTIMIZERS.keys()
    for strategy, by in lowered.items():
        outer, params = named(strategy), {"w": torch.tensor([1.0])}
        after, _ = outer.step(params, {"w": torch.tensor([0.5])}, outer.init(params))
        assert float(after["w"]) == pytest.approx(1.0 - by, rel=1e-6), strategy


def test_an_outer_schedule_by_hand():
    warm = [outer_factor("constant", r, 10, 4, 0.0) for r in range(1, 7)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    linear = [outer_factor("linear", r, 6, 2, 0.2) for r in range(1, 7)]
    assert linear == pytest.approx([0.5, 1.0, 0.84, 0.68, 0.52, 0.36])
    cosine = [outer_factor("cosine", r, 4, 0, 0.1) for r in range(1, 5)]
    assert cosine == pytest.approx(
        [0.1 + 0.9 * (1 + math.cos(math.pi * r / 5)) / 2 for r in range(1, 5)]
    )
    assert outer_factor("linear", 9, 6, 2, 0.2) == linear[-1], "past the end"


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_no_round_has_a_factor_of_zero(name):
    for rounds in (1, 2, 3, 100):
        for warmup in (0, 1, 2):
            factors = [outer_factor(name, r, rounds, warmup, 0.0) for r in range(1, rounds + 9)]
            assert min(factors) > 0
            after = factors[warmup:]
            assert after == sorted(after, reverse=True)


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99])
def test_the_average_is_that_of_torch_beside_the_same_steps(decay):
    plain, averaged = nesterov(lr=0.7, server_momentum=0.6), nesterov(lr=0.7, server_momentum=0.6)
    averaged = averaging(averaged, decay)
    params, ours = tree(0), tree(0)
    module = torch.nn.ParameterDict({name: value.clone() for name, value in params.items()})
    reference = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(decay))
    reference.update_parameters(module)
    state, our_state = plain.init(params), averaged.init(ours)
    for step in range(6):
        params, state = plain.step(params, tree(step + 1), state)
        ours, our_state = averaged.step(ours, tree(step + 1), our_state)
        with torch.no_grad():
            for name, value in params.items():
                module[name].copy_(value)
        reference.update_parameters(module)
    for name in params:
        assert torch.equal(ours[name], params[name])
        assert torch.equal(our_state["momentum"][name], state["momentum"][name])
        torch.testing.assert_close(our_state[EMA][name], reference.module[name].detach())


def test_all_rounds_count_alike_until_the_average_is_as_old_as_its_decay_remembers():
    outer, seen, params = sgd(lr=1.0), [], tree(0)
    state = averaging(outer, 0.0).init(params)
    for round_number in range(1, 9):
        one = averaging(outer, ema_decay(0.75, round_number))
        params, state = one.step(params, tree(round_number), state)
        seen.append({name: value.clone() for name, value in params.items()})
        if round_number <= 4:
            for name in params:
                mean = torch.stack([one[name] for one in seen]).mean(0)
                torch.testing.assert_close(state[EMA][name], mean)
    expected = torch.stack([one["a"] for one in seen[:4]]).mean(0)
    for one in seen[4:]:
        expected = 0.75 * expected + 0.25 * one["a"]
    torch.testing.assert_close(state[EMA]["a"], expected)


@pytest.mark.parametrize("gathers", [False, True])
def test_parts_of_a_round_move_the_parameters_and_not_the_average(gathers):
    momentum = 0.6 if gathers else 0.0
    outer = averaging(sgd(lr=0.5, momentum=momentum, gathers=gathers), 0.5)
    assert outer.between is not None
    params = tree(0)
    state = outer.init(params)
    before = {name: value.clone() for name, value in params.items()}
    params, state = outer.between(params, tree(1), state)
    assert all(torch.equal(state[EMA][name], before[name]) for name in params)
    assert not any(torch.equal(params[name], before[name]) for name in params)
    params, state = outer.step(params, tree(2), state)
    assert not any(torch.equal(state[EMA][name], before[name]) for name in params)


def own_with_an_average_of_its_own(lr: float) -> OuterOptimizer:
    plain = sgd(lr=lr)
    return plain._replace(init=lambda params: {EMA: {n: v.clone() for n, v in params.items()}})


def test_a_tree_of_ones_own_that_would_be_given_out_as_the_model_is_refused():
    keys = [f"fl.strategy_name={__name__}:own_with_an_average_of_its_own"]
    with pytest.raises(ConfigError, match=r"is called 'ema', as is that of fl\.ema_decay"):
        outer_of(load_config(keys).federation, 1)


def test_the_average_begins_with_the_first_merge_whatever_its_round():
    fl = load_config(["fl.ema_decay=0.9"]).federation
    for moved in (0, 4, None):
        outer, params = outer_of(fl, 5, moved), tree(0)
        params, state = outer.step(params, tree(1), outer.init(params))
        is_new = all(torch.equal(state[EMA][n], v) for n, v in params.items())
        assert is_new == (moved == 0)
