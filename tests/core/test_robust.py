"""Robust means, against dense computations written here, and against clients that lie."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch

from photon import points
from photon.core import aggregate
from photon.core.aggregate import weighted_mean
from photon.core.codec import BF16, Codecs, decode, encode, leaves
from photon.core.messages import Bounds, MomentBound, ServerState, Update
from photon.core.outer import nesterov, sgd
from photon.core.policy import Rules
from photon.core.robust.gram import RUN_ELEMENTS, gram
from photon.core.robust.network import exchange, selecting, sorting
from photon.core.round import close_round, open_round
from states import bits, copied

SHAPES = {"w": (31, 17), "b": (3,), "empty": (0,)}
ROBUST = ["median", "trimmed_mean:20", "trimmed_mean:30", "centred_clip", "centred_clip:60/3",
          "krum", "krum:30/20", "krum:45/100"]  # fmt: skip


@pytest.fixture(autouse=True)
def _several_pieces(monkeypatch):
    monkeypatch.setattr(aggregate, "BLOCK_BYTES", 1)
    monkeypatch.setattr(aggregate, "FEWEST_ELEMENTS", 100)


def values(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * scale for n, s in SHAPES.items()}


def dense(trees) -> torch.Tensor:
    """[trees, elements], float64."""
    return torch.stack([torch.cat([v.double().reshape(-1) for v in t.values()]) for t in trees])


@pytest.mark.parametrize("count", [1, 2, 7])
def test_inner_products_are_those_of_whole_rows(count):
    trees = [values(seed, 10.0 ** (seed % 3)) for seed in range(count)]
    rows = dense(trees)
    found = gram(trees)
    assert found.dtype == torch.float64
    assert torch.equal(found, found.T)
    lengths = rows.norm(dim=1)
    error = (found - rows @ rows.T).abs() / (lengths[:, None] * lengths)
    assert error.max() < 1e-6


def test_inner_products_of_what_was_sent_and_of_any_size():
    trees = [values(seed, 1e25 if seed == 1 else 1.0) for seed in range(4)]
    sent = [leaves(encode(tree, BF16)[0], tree, BF16) for tree in trees]
    rows = dense([{n: v.to(torch.bfloat16) for n, v in tree.items()} for tree in trees])
    lengths = rows.norm(dim=1)
    error = (gram(sent) - rows @ rows.T).abs() / (lengths[:, None] * lengths)
    assert torch.isfinite(gram(sent)).all()
    assert error.max() < 1e-6


@pytest.mark.parametrize("scale", [0.0, 1e-25, 1e25])
def test_inner_products_that_float32_does_not_hold(scale, monkeypatch):
    """Of runs of elements and of what is left of them."""
    monkeypatch.setattr(aggregate, "FEWEST_ELEMENTS", 2 * RUN_ELEMENTS + 10)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(2, 2 * RUN_ELEMENTS + 10, generator=generator)
    trees = [{"a": drawn[0]}, {"a": drawn[1] * scale}]
    rows = dense(trees)
    torch.testing.assert_close(gram(trees), rows @ rows.T, rtol=1e-4, atol=0.0)


def test_no_trees_have_no_inner_products():
    with pytest.raises(ValueError, match="need a tree"):
        gram([])


def zeros_and_ones(count: int) -> torch.Tensor:
    """[count, 2 ** count], all that there are."""
    return torch.tensor(list(product([0.0, 1.0], repeat=count))).T.contiguous()


@pytest.mark.parametrize("count", range(1, 12))
def test_a_network_sorts_all_zeros_and_ones_and_so_everything(count):
    """Knuth, volume 3, 5.3.4, theorem Z."""
    columns = zeros_and_ones(count)
    rows = list(columns)
    for lower, upper in sorting(count):
        rows[lower], rows[upper] = (
            torch.minimum(rows[lower], rows[upper]), torch.maximum(rows[lower], rows[upper])
        )  # fmt: skip
    assert torch.equal(torch.stack(rows), columns.sort(dim=0).values)


@pytest.mark.parametrize("count", range(1, 12))
def test_what_lies_between_the_ends_is_found_whole(count):
    """As a set: so many ones of zeros and ones say all of it, by the same theorem."""
    columns = zeros_and_ones(count)
    for cut in range((count + 1) // 2):
        rows, spare = list(columns.clone().unbind()), torch.empty(columns.shape[1])
        found = exchange(rows, spare, selecting(count, cut))[cut : count - cut]
        expected = columns.sort(dim=0).values[cut : count - cut]
        assert torch.equal(torch.stack(found).sum(0), expected.sum(0)), cut


def test_a_network_makes_no_comparison_in_vain():
    """As many as Parberry's has; of what lies between the ends alone fewer minima and maxima."""
    counts = (1, 2, 3, 4, 5, 8, 16)
    assert [len(list(sorting(n))) for n in counts] == [0, 1, 3, 5, 9, 19, 63]
    made = {n: [sum(one.has_lower + one.has_upper for one in selecting(n, cut))
                for cut in (n // 4, (n - 1) // 2)] for n in (4, 8, 16, 32)}  # fmt: skip
    assert made == {4: [6, 6], 8: [24, 26], 16: [84, 86], 32: [268, 258]}


def by_hand(rule: str, rows: np.ndarray) -> np.ndarray:
    """[elements] of [clients, elements] in float64, from the definitions."""
    name, numbers = points.aggregation_parts(rule)
    count = len(rows)
    if name == "median":
        return np.median(rows, axis=0)
    if name == "trimmed_mean":
        cut = count * numbers[0] // 100
        return np.sort(rows, axis=0)[cut : count - cut].mean(axis=0)
    if name == "krum":
        return krum_by_hand(rows, *numbers)
    return clip_by_hand(rows, *numbers)


def krum_by_hand(rows: np.ndarray, bad: int, kept: int) -> np.ndarray:
    count = len(rows)
    false = min(count * bad // 100, (count - 3) // 2)
    scores = []
    for i in range(count):
        others = sorted(((rows[i] - rows[j]) ** 2).sum() for j in range(count) if j != i)
        scores.append(sum(others[: count - false - 2]))
    kept = max(1, min(count * kept // 100, count - false - 2))
    return rows[np.argsort(scores, kind="stable")[:kept]].mean(axis=0)


def clip_by_hand(rows: np.ndarray, radius: int, iterations: int) -> np.ndarray:
    center = np.zeros(rows.shape[1])
    for _ in range(iterations):
        away = [float(np.linalg.norm(row - center)) for row in rows]
        most = radius / 100 * sorted(away)[(len(rows) - 1) // 2]
        pulls = [
            (row - center) * min(1.0, most / far) if far else 0.0 * row
            for row, far in zip(rows, away, strict=True)
        ]
        center = center + sum(pulls) / len(rows)
    return center


def merged(rule: str, trees, weights) -> np.ndarray:
    mixture = points.aggregation(rule)(trees, weights, frozenset())
    return dense([weighted_mean(trees, weights, mixture)])[0].numpy()


@pytest.mark.parametrize("count", [5, 8, 11])
@pytest.mark.parametrize("rule", ROBUST)
def test_each_rule_is_its_definition_whatever_clients_say_of_their_tokens(rule, count):
    trees = [values(seed, 1.0 + seed % 3) for seed in range(count)]
    expected = by_hand(rule, dense(trees).numpy())
    for weights in ([1.0] * count, [1e12, *range(1, count)]):
        np.testing.assert_allclose(merged(rule, trees, weights), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_there_is_only_the_mean(rule, count):
    """Centred clipping moves to it, and leaves out what is further than a radius."""
    trees = [values(seed) for seed in range(count)]
    if rule != "centred_clip:60/3":
        expected = dense(trees).mean(dim=0).numpy()
        np.testing.assert_allclose(merged(rule, trees, [5.0, 1.0][:count]), expected, atol=2e-2)


@pytest.mark.parametrize("rule", ROBUST)
def test_equal_updates_are_merged_into_themselves(rule):
    trees = [values(1)] * 5
    tolerance = 0.1 if rule == "centred_clip:60/3" else 2e-4
    np.testing.assert_allclose(merged(rule, trees, [1.0] * 5), dense(trees)[0], rtol=tolerance)


LIES = {
    "x1e6": lambda honest, k: {n: v * 1e6 for n, v in honest.items()},
    "x-1e6": lambda honest, k: {n: v * -1e6 for n, v in honest.items()},
    "far away together": lambda honest, k: {n: torch.full_like(v, 1e7) for n, v in honest.items()},
    "anywhere": lambda honest, k: values(900 + k, 1e5),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    ("rule", "count", "bad"),
    [("median", 8, 3), ("median", 9, 4), ("trimmed_mean:25", 8, 2), ("trimmed_mean:49", 9, 4),
     ("krum:25/50", 8, 2), ("krum:40/100", 9, 3)],
)  # fmt: skip
def test_what_lies_within_what_the_table_says_moves_nothing_out_of_the_others_range(
    rule, count, bad, lie
):
    """Of each number; the liars stand at any place among them."""
    for first in (0, count - bad):
        trees = [values(seed) for seed in range(count)]
        liars = range(first, first + bad)
        for liar in liars:
            trees[liar] = LIES[lie](trees[liar], liar)
        honest = dense([trees[k] for k in range(count) if k not in liars]).numpy()
        weights = [1e12 if k in liars else 10.0 for k in range(count)]
        found, slack = merged(rule, trees, weights), 1e-6
        assert (found >= honest.min(axis=0) - slack).all()
        assert (found <= honest.max(axis=0) + slack).all()


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("count", "bad"), [(8, 3), (9, 4)])
def test_centred_clipping_is_moved_by_a_few_radii_however_far_the_lie(count, bad, lie):
    honest = [values(seed) for seed in range(count - bad)]
    trees = honest + [LIES[lie](values(50 + k), k) for k in range(bad)]
    rows = dense(honest).numpy()
    away = np.linalg.norm(merged("centred_clip", trees, [1.0] * count) - rows.mean(axis=0))
    spread = max(np.linalg.norm(row - rows.mean(axis=0)) for row in rows)
    assert away < 4 * spread


def test_who_is_who_does_not_change_a_bit_of_a_median_and_no_more_than_rounding_of_a_mean():
    trees = [values(seed) for seed in range(6)]
    orders = list(permutations(trees))[::97]
    assert len({merged("median", order, [1.0] * 6).tobytes() for order in orders}) == 1
    means = [merged("trimmed_mean:25", order, [1.0] * 6) for order in orders]
    assert max(np.abs(mean - means[0]).max() for mean in means) < 1e-6


MOMENTS = {"exp_avg": MomentBound(names=tuple(SHAPES)),
           "exp_avg_sq": MomentBound(names=tuple(SHAPES), is_square=True)}  # fmt: skip


def opened(rule: str, clients: int, codec=BF16, **more):
    params, sent = values(0), Codecs(codec, codec)
    rules = Rules(quorum=1, up=sent, down=sent, mixing=points.aggregation(rule), **more)
    state = ServerState(round=1, step=5, params=params, outer={})
    plan = open_round(state, run="r", steps=dict.fromkeys(range(clients), 5), rules=rules,
                      base_digest="d", bounds=Bounds(moments=MOMENTS))  # fmt: skip
    return state, plan, rules


def update_of(plan, client: int, **changes) -> Update:
    square = {name: value**2 for name, value in values(200 + client).items()}
    codec = plan.up.gradient
    update = Update(
        run="r", round=plan.round, client=client, gradient=encode(values(100 + client), codec)[0],
        moments={"exp_avg": encode(values(200 + client), codec)[0],
                 "exp_avg_sq": encode(square, codec)[0]},
        num_tokens=10 + client, num_steps=5, base_digest="d", metrics={"train_loss": 1.0},
    )  # fmt: skip
    return replace(update, **changes)


@pytest.mark.parametrize("codec", ["bf16", "int4"])
@pytest.mark.parametrize("rule", ROBUST)
def test_a_round_merges_gradients_and_moments_and_says_how_the_clients_lay(rule, codec):
    """In any order of arrival: the same bits. Whoever is believed is so of moments too."""
    state, plan, rules = opened(rule, 6, points.codec(codec))
    updates = [update_of(plan, client) for client in range(6)]
    before, results = copied(state), []
    for order in (updates, updates[::-1], updates[3:] + updates[:3]):
        results.append(close_round(copied(state), plan, order, outer=sgd(lr=1.0), rules=rules))
    assert len({tuple(bits(after)) for after, _ in results}) == 1
    (after, report), weights = results[0], [10.0 + client for client in range(6)]

    def rows_of(trees, its):
        return dense([decode(tree, state.params, its) for tree in trees]).numpy()

    up = plan.up
    rows = rows_of([u.gradient for u in updates], up.gradient)
    found = (dense([before.params]) - dense([after.params]))[0].numpy()
    merged_into, mean = by_hand(rule, rows), np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(found, merged_into, rtol=1e-4, atol=2e-6)
    assert report.gradient_norm == pytest.approx(np.linalg.norm(merged_into), rel=1e-5)
    assert report.mean_norm == pytest.approx(np.linalg.norm(mean), rel=1e-4)
    drift = math.sqrt(np.average(((rows - mean) ** 2).sum(axis=1), weights=weights))
    assert report.consensus_distance == pytest.approx(drift, rel=1e-4)
    for client, own in enumerate(rows):
        angle = own @ merged_into / np.linalg.norm(own) / np.linalg.norm(merged_into)
        assert report.client_cosines[client] == pytest.approx(angle, rel=1e-3, abs=1e-5)
    shares = points.aggregation(rule)([leaves(u.gradient, state.params, up.gradient)
                                       for u in updates], weights, frozenset()).weights  # fmt: skip
    for name in MOMENTS:
        its = rows_of([u.moments[name] for u in updates], up.of_moment(name))
        own = by_hand(rule, its) if shares is None else np.average(its, axis=0, weights=shares)
        sent = dense([decode(after.moments[name], state.params, up.of_moment(name))])[0].numpy()
        atol = {"bf16": 0.02, "int4": 0.7}[codec]
        np.testing.assert_allclose(sent, own, atol=atol, rtol=1e-2 if codec == "bf16" else 0.2)
        if MOMENTS[name].is_square:
            assert (sent >= 0).all()


@pytest.mark.parametrize("rule", ROBUST)
def test_an_outer_step_of_whole_trees_takes_what_is_merged_too(rule):
    """As one that is taken in place, where the mean is the same."""
    state, plan, rules = opened(rule, 5)
    updates = [update_of(plan, client) for client in range(5)]
    outer = nesterov(lr=0.7, server_momentum=0.9)
    found = []
    for one in (outer, outer._replace(elementwise=False)):
        begun = replace(copied(state), outer=outer.init(state.params))
        found.append(close_round(begun, plan, updates, outer=one, rules=rules))
    assert bits(found[0][0]) == bits(found[1][0])
    assert found[0][1].mean_norm == found[1][1].mean_norm


@pytest.mark.parametrize("rule", ["median", "krum"])
def test_a_late_update_counts_like_any_other(rule):
    state, plan, rules = opened(rule, 5, staleness_exponent=0.5)
    late = replace(plan, bases={1: "d"})
    updates = [update_of(plan, client) for client in range(4)] + [update_of(plan, 4, round=1)]
    after, report = close_round(copied(state), late, updates, outer=sgd(lr=1.0), rules=rules)
    assert report.late == {4: 1}
    rows = dense([decode(u.gradient, state.params, BF16) for u in updates]).numpy()
    moved = (dense([state.params]) - dense([after.params]))[0].numpy()
    np.testing.assert_allclose(moved, by_hand(rule, rows), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ROBUST)
def test_of_a_fragment_nothing_else_is_merged(rule):
    state, plan, rules = opened(rule, 5)
    part = replace(plan, trained=("b",), bounds=Bounds())
    updates = []
    for client in range(5):
        whole = update_of(plan, client)
        updates.append(replace(whole, gradient={"b": whole.gradient["b"]}, moments={}))
    after, report = close_round(copied(state), part, updates, outer=sgd(lr=1.0), rules=rules)
    assert len(report.accepted) == 5
    rows = dense([decode(u.gradient, state.params, BF16) for u in updates]).numpy()
    moved = (state.params["b"] - after.params["b"]).numpy()
    np.testing.assert_allclose(moved, by_hand(rule, rows), rtol=1e-4, atol=1e-6)
    assert torch.equal(after.params["w"], state.params["w"])
