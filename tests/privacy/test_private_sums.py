"""Shortened sums with noise, and what they cost, against closed forms and dp-accounting by hand."""

from __future__ import annotations

import math
from statistics import NormalDist

import dp_accounting
import pytest
import torch
from dp_accounting import pld, rdp

from photon.chain.said import plan_digest
from photon.config import load_config
from photon.config.federation import Federation
from photon.core.aggregate import mean_by_piece
from photon.core.messages import RoundPlan
from photon.errors import ConfigError
from photon.privacy.accounting import Release, epsilon
from photon.privacy.merge import noise_on_mean, private_mixture, shortened
from photon.privacy.noise import normals
from photon.privacy.share import share_for
from photon.privacy.terms import (
    check_budget,
    loudness,
    noise_warning,
    promise_of,
    release_of,
)
from photon.run.releases import Ledger, lack

KEY = bytes(range(32))


def test_epsilon_is_that_of_dp_accounting_by_hand():
    by_hand = dp_accounting.get_epsilon_gaussian(2.0 / math.sqrt(24), 1e-5)
    assert epsilon({Release(2.0): 24}, 1e-5) == pytest.approx(by_hand, rel=1e-12)
    accountant = rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    one = dp_accounting.GaussianDpEvent(1.0)  # a client in the place of another: twice as far
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(999, 10, one), 24)
    sampled = epsilon({Release(2.0, 999, 10): 24}, 1e-5)
    assert sampled == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-12)
    assert sampled < by_hand


def merged(rows: list[torch.Tensor], cohort: int, deviation: float, address: str) -> torch.Tensor:
    factors = shortened([float(row.norm()) for row in rows], 1.0)
    noise = noise_on_mean(KEY, address, deviation) if deviation else None
    trees = [{"w": row} for row in rows]
    mixture, out = private_mixture(trees, factors, cohort, noise), torch.empty(rows[0].numel())

    def take(piece):
        if mixture.noise is not None:
            mixture.noise(piece)
        out[piece.at] = piece.mean

    mean_by_piece(trees, [9.0] * len(trees), take, mixture)
    return out


def test_an_update_a_thousand_times_as_large_moves_the_mean_no_further():
    rows = list(torch.randn(3, 50, generator=torch.Generator().manual_seed(1)))
    without = merged([*rows, torch.zeros(50)], 8, 0.0, "")
    large = merged([*rows, 1000 * rows[0]], 8, 0.0, "")
    assert float((large - without).norm()) == pytest.approx(1 / 8, rel=1e-5)


def test_noise_has_its_variance_and_another_address_other_noise():
    count, zero = 100_000, [torch.zeros(100_000)]
    one, other = merged(zero, 4, 0.3, "a"), merged(zero, 4, 0.3, "b")
    for row in (one, other):  # chi-square, five deviations
        assert abs(float(row.square().sum()) / 0.09 - count) < 5 * math.sqrt(2 * count)
    assert abs(float(one @ other)) / 0.09 < 5 * math.sqrt(count)
    assert torch.equal(one, merged(zero, 4, 0.3, "a"))
    part = normals(KEY, "a w", 70_000, 70_010)
    assert torch.equal(part, normals(KEY, "a w", 0, count)[70_000:70_010])


def test_a_client_adds_its_share_and_other_noise_to_another_update():
    count, drawn = 100_000, []
    for size in (1e-9, 2e-9, 1e-9):
        value = torch.full((count,), size)
        share = share_for([("w", value)], 1.0, 0.2, KEY, "run 1 0")
        share.add_to("w", value)
        drawn.append(value)
    assert torch.equal(drawn[0], drawn[2])
    assert abs(float(drawn[0].square().sum()) / 0.04 - count) < 5 * math.sqrt(2 * count)
    assert abs(float(drawn[0] @ drawn[1])) / 0.04 < 5 * math.sqrt(count)


def federation(*overrides: str) -> Federation:
    return load_config(["fl.aggregate_momenta=false", *overrides]).federation


SAMPLED = ("fl.n_total_clients=100", "fl.n_clients_per_round=10", "fl.n_rounds=40",
           "fl.privacy.clip_norm=1", "fl.privacy.noise_multiplier=4",
           "fl.reset_checkpoint=true")  # fmt: skip


def test_a_cohort_counts_only_where_nobody_can_know_it():
    assert release_of(federation(*SAMPLED), 10, 60) == Release(4.0, 59, 10)
    for other in ("fl.reset_checkpoint=false", "fl.sampling=by_size", "fl.n_clients_per_round=99"):
        assert release_of(federation(*SAMPLED, other), 10, 100) == Release(4.0)
    assert release_of(federation(*SAMPLED), 10, 11) == Release(4.0), "all that are here"


def test_a_promise_is_what_the_rounds_cost_and_ends_with_the_budget():
    whole = promise_of(federation(*SAMPLED))
    assert whole is not None
    assert whole.sampled
    assert not whole.is_cut
    assert whole.epsilon == pytest.approx(epsilon({Release(4.0, 99, 10): 40}, 1e-5))
    budget = epsilon({Release(4.0): 17}, 1e-5) * 1.001
    keys = (*SAMPLED, "fl.reset_checkpoint=false", f"fl.privacy.max_epsilon={budget}")
    cut = promise_of(federation(*keys))
    assert cut is not None
    assert (cut.rounds, cut.is_cut, cut.sampled, cut.would_be_sampled) == (17, True, False, True)
    assert cut.epsilon == pytest.approx(budget / 1.001)
    assert promise_of(federation(*keys, "fl.privacy.clip_norm=null")) is None


def test_a_budget_below_one_round_is_refused():
    price = epsilon({Release(4.0): 1}, 1e-5)
    keys = (*SAMPLED, "fl.reset_checkpoint=false")
    with pytest.raises(ConfigError, match=r"max_epsilon=.*: one round costs epsilon"):
        check_budget(federation(*keys, f"fl.privacy.max_epsilon={0.999 * price}"))
    check_budget(federation(*keys, f"fl.privacy.max_epsilon={1.001 * price}"))
    check_budget(federation(*keys))


def test_noise_that_drowns_what_is_learned_is_told_before_a_run():
    """10,000 elements: a vector of noise is 100 deviations long, in the mean."""
    drawn = normals(KEY, "length", 0, 10_000)
    clip, keys = 0.5, ["fl.privacy.clip_norm=0.5", "fl.n_total_clients=8"]
    fl = federation(*keys, "fl.privacy.noise_multiplier=2", "fl.aggregate_momenta=false")
    by_hand = float((2 * clip * drawn).norm()) / (8 * clip)
    assert loudness(fl, 10_000) == pytest.approx(by_hand, rel=0.05)
    assert "is 25 times as long as the updates of its 8 clients" in str(noise_warning(fl, 10_000))
    assert noise_warning(fl, 1_000) is None
    assert noise_warning(federation(), 10_000) is None


def test_a_plan_of_a_secret_cohort_cannot_be_tried_out():
    plan = RoundPlan(round=1, cohort=(), instructions={}, base_digest="", run="r")
    assert len({plan_digest(plan), plan_digest(plan, "a"), plan_digest(plan, "b")}) == 3


def gaussian_delta(price: float, noise: float) -> float:
    """Balle & Wang 2018 (arXiv:1805.06530), theorem 8."""
    normal = NormalDist()
    one, other = normal.cdf(0.5 / noise - price * noise), normal.cdf(-0.5 / noise - price * noise)
    return one - math.exp(price) * other


def test_many_releases_to_all_are_one_with_less_noise():
    """By the closed form of a Gaussian mechanism, and by privacy loss distributions."""
    price = epsilon({Release(3.0): 8, Release(2.0): 4}, 1e-5)
    together = 1 / math.sqrt(8 / 9 + 4 / 4)
    assert gaussian_delta(price, together) == pytest.approx(1e-5, rel=1e-4)
    accountant = pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(3.0), 8)
    accountant.compose(dp_accounting.GaussianDpEvent(2.0), 4)
    assert price == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_a_sampled_release_is_bounded_by_theorem_27():
    """Wang, Balle & Kasiviswanathan 2019 (arXiv:1808.00087), of whole orders, written out: for a
    client in the place of another the sum moves by twice the norm, so half the noise counts.
    """
    noise, ratio, rounds, delta = 4.0, 10 / 99, 30, 1e-5

    def divergence(order: int) -> float:  # of the mechanism without sampling
        return order / (2 * (noise / 2) ** 2)

    def moment(j: int) -> float:
        return math.exp((j - 1) * divergence(j)) if j else 1.0

    def difference(j: int) -> float:
        return sum((-1) ** (j - i) * math.comb(j, i) * moment(i) for i in range(j + 1))

    def ternary(j: int) -> float:
        below, above = 2 * (j // 2), 2 * -(-j // 2)
        return min(4 * math.sqrt(difference(below) * difference(above)), 2 * moment(j))

    def sampled(order: int) -> float:
        terms = (ratio**j * math.comb(order, j) * ternary(j) for j in range(2, order + 1))
        return math.log(1 + sum(terms)) / (order - 1)

    def price(order: int) -> float:  # Canonne, Kamath & Steinke 2020 (arXiv:2004.00010)
        rest = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        return rounds * sampled(order) + rest

    by_hand = min(map(price, range(2, 17)))
    ours = epsilon({Release(noise, 99, 10): rounds}, delta)
    assert ours <= by_hand * (1 + 1e-9)
    assert ours == pytest.approx(by_hand, rel=0.03)


def test_older_versions_noted_no_updates_and_their_releases_count(tmp_path):
    old = Ledger(tmp_path, (), 0, "k")
    for number in (1, 2):
        old.add(number, "sum", Release(2.0, 9, 3))
    new = Ledger(tmp_path, ((2.0, 9, 3, 2),), 2, "k", asked=0)
    assert new.asked() == 2
    for _ in range(2):
        new.ask(3)
    new.add(3, "sum", Release(2.0, 9, 3))
    assert (new.asked(), new.count().total()) == (4, 3)
    copied = Ledger(tmp_path / "copied", new.told(), 3, "other", asked=new.asked())
    copied.ask(4)
    assert Ledger(tmp_path / "copied", new.told(), 3, "other", asked=4).asked() == 5
    new.ask(4)
    path = tmp_path / "releases.jsonl"
    assert lack(path, (), [1, 2, 3, 4]) == "lacks round 4, which was committed"
