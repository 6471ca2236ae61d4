"""What updates are merged into, against closed forms, a case by hand, and float64."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from photon.core import aggregate
from photon.core.aggregate import mean_by_piece, normed, plain, radial, weighted_mean
from photon.core.codec import BF16, encode
from photon.core.messages import ServerState, Update
from photon.core.outer import sgd
from photon.core.policy import Rules
from photon.core.round import close_round, open_round
from states import copied

SHAPES = {"table": (7, 5), "w": (31, 17), "b": (3,)}
TABLES = frozenset({"table"})
RULES = {"rda": radial, "normed": normed}


@pytest.fixture(autouse=True)
def _several_pieces(monkeypatch):
    monkeypatch.setattr(aggregate, "BLOCK_BYTES", 1)
    monkeypatch.setattr(aggregate, "FEWEST_ELEMENTS", 100)


def values(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * scale for n, s in SHAPES.items()}


def merged(rule, trees, weights) -> dict[str, torch.Tensor]:
    """As the outer step merges them, for `table`, `w`, `b` or other leaves."""
    found = {name: torch.empty(value.shape) for name, value in trees[0].items()}

    def write(piece) -> None:
        found[piece.name].view(-1)[piece.at] = piece.mean

    mean_by_piece(trees, weights, write, rule(trees, weights, TABLES))
    return found


def by_hand(trees, weights, rule: str) -> dict[str, np.ndarray]:
    """In numpy and float64, from the definitions."""
    shares = np.array(weights) / sum(weights)
    rows = {n: np.stack([t[n].double().reshape(-1).numpy() for t in trees]) for n in trees[0]}
    means = {name: shares @ row for name, row in rows.items()}
    if rule == "normed":
        lengths = np.sqrt(sum((row**2).sum(1) for row in rows.values()))
        whole = math.sqrt(sum((mean**2).sum() for mean in means.values()))
        return {name: mean * (shares @ lengths) / whole for name, mean in means.items()}
    found = {}
    for name, row in rows.items():
        lengths = np.linalg.norm(row, axis=1)
        direction = shares @ (row / lengths[:, None])
        turned = direction / np.linalg.norm(direction) * (shares @ lengths)
        found[name] = means[name] if name in TABLES else turned
    return found


def test_two_clients_by_hand():
    """3 east and 1 north, of weights 1 and 3: directions (1/4, 3/4), lengths 3/4 + 3/4."""
    trees = [{"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
    length = math.sqrt(1 / 16 + 9 / 16)
    expected = [1.5 * 0.25 / length, 1.5 * 0.75 / length]
    torch.testing.assert_close(merged(radial, trees, [1.0, 3.0])["w"], torch.tensor(expected))
    long = 1.5 / math.sqrt(0.75**2 + 0.75**2)
    torch.testing.assert_close(
        merged(normed, trees, [1.0, 3.0])["w"], torch.tensor([0.75, 0.75]) * long
    )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("codec", ["fp32", "bf16"])
def test_it_is_what_the_definition_says(name, codec):
    trees = [values(seed, 10.0**-seed) for seed in range(4)]
    trees = [encode(t, BF16)[0] if codec == "bf16" else t for t in trees]
    weights = [10.0, 20.0, 5.0, 65.0]
    expected = by_hand(trees, weights, name)
    for leaf, value in merged(RULES[name], trees, weights).items():
        np.testing.assert_allclose(value.reshape(-1), expected[leaf], rtol=2e-5, atol=2e-7)


@pytest.mark.parametrize("name", RULES)
def test_a_single_update_is_what_it_is(name):
    one = values(1)
    for leaf, value in merged(RULES[name], [one], [3.0]).items():
        assert torch.equal(value, one[leaf])


@pytest.mark.parametrize("name", RULES)
def test_of_one_direction_the_mean_comes(name):
    trees = [{n: value * size for n, value in values(1).items()} for size in (1.0, 2.0, 4.0)]
    mean = weighted_mean(trees, [1.0, 1.0, 3.0])
    for leaf, value in merged(RULES[name], trees, [1.0, 1.0, 3.0]).items():
        torch.testing.assert_close(value, mean[leaf], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", RULES)
def test_orthogonal_updates_of_one_length_keep_it(name):
    """Where the mean of 16 has a quarter of it."""
    trees = [{"w": torch.eye(16)[k] * 5} for k in range(16)]
    weights = [2.0] * 16
    assert float(weighted_mean(trees, weights)["w"].norm()) == pytest.approx(5 / 4)
    found = merged(RULES[name], trees, weights)["w"]
    torch.testing.assert_close(found, torch.full((16,), 5 / 4))
    assert float(found.norm()) == pytest.approx(5.0)


@pytest.mark.parametrize("name", RULES)
def test_what_is_zero_has_no_direction_but_counts_for_the_length(name):
    nothing = {"w": torch.zeros(4)}
    one = {"w": torch.tensor([0.0, 3.0, 0.0, 4.0])}
    assert not merged(RULES[name], [nothing, nothing], [1.0, 1.0])["w"].any()
    found = merged(RULES[name], [nothing, one], [3.0, 1.0])["w"]
    torch.testing.assert_close(found, one["w"] / 4)


@pytest.mark.parametrize("name", RULES)
def test_where_directions_cancel_the_mean_stands(name):
    one = values(3)
    trees = [one, {n: -value for n, value in one.items()}]
    for value in merged(RULES[name], trees, [7.0, 7.0]).values():
        assert not value.any()
    noisy = {n: -value * (1 + 1e-7) for n, value in one.items()}
    for value in merged(RULES[name], [one, noisy], [7.0, 7.0]).values():
        assert float(value.abs().max()) < 1e-6


def test_a_leaf_that_is_zero_everywhere_leaves_the_others_alone():
    trees = [{**values(seed), "b": torch.zeros(3)} for seed in (1, 2)]
    found = merged(radial, trees, [1.0, 1.0])
    assert not found["b"].any()
    assert all(bool(value.isfinite().all()) for value in found.values())


def opened(rule, count: int):
    params = values(0)
    state = ServerState(round=0, step=0, params=params, outer={})
    rules = Rules(quorum=count, mixing=rule, tables=TABLES)
    plan = open_round(
        state, run="r", steps=dict.fromkeys(range(count), 5), rules=rules, base_digest="d"
    )
    return state, plan, rules


def update_of(plan, client: int) -> Update:
    return Update(
        run="r", round=plan.round, client=client, gradient=values(10 + client), moments={},
        num_tokens=10 + client, num_steps=5, base_digest="d", metrics={"train_loss": 1.0},
    )  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_round_takes_it_and_says_how_the_clients_lay(name):
    """In any order of arrival: the same bits. The drift is that from the mean."""
    state, plan, rules = opened(RULES[name], 3)
    before, updates, found = copied(state), [update_of(plan, c) for c in range(3)], []
    for order in permutations(updates):
        after, report = close_round(copied(state), plan, order, outer=sgd(lr=1.0), rules=rules)
        found.append(({n: v.tolist() for n, v in after.params.items()}, report))
    assert all(one == found[0] for one in found)
    trees, weights = [u.gradient for u in updates], [10.0, 11.0, 12.0]
    expected = by_hand(trees, weights, name)
    for leaf, value in found[0][0].items():
        moved = before.params[leaf].double().reshape(-1).numpy() - expected[leaf]
        np.testing.assert_allclose(np.reshape(value, -1), moved, rtol=1e-4, atol=1e-5)
    report, flat = found[0][1], [np.concatenate([v.reshape(-1) for v in t.values()]) for t in trees]
    mean = np.average(flat, axis=0, weights=weights)
    drift = math.sqrt(np.average([((x - mean) ** 2).sum() for x in flat], weights=weights))
    assert report.mean_norm == pytest.approx(np.linalg.norm(mean), rel=1e-5)
    assert report.consensus_distance == pytest.approx(drift, rel=1e-4)
    size = math.sqrt(sum((v**2).sum() for v in expected.values()))
    assert report.gradient_norm == pytest.approx(size, rel=1e-5)
    assert report.gradient_norm > 1.2 * report.mean_norm


def test_the_mean_is_taken_as_ever():
    trees = [values(seed) for seed in range(3)]
    assert plain(trees, [1.0] * 3, TABLES) == aggregate.Mixture()
    state, plan, rules = opened(plain, 3)
    _, report = close_round(state, plan, [update_of(plan, c) for c in range(3)],
                            outer=sgd(lr=1.0), rules=rules)  # fmt: skip
    assert report.mean_norm == report.gradient_norm
