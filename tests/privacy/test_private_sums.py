"""Shortened sums with noise, and what they cost, against closed forms and dp-accounting by hand."""

from __future__ import annotations

import math

import dp_accounting
import pytest
import torch
from dp_accounting import rdp

from photon.core.aggregate import mean_by_piece
from photon.privacy.accounting import Release, epsilon
from photon.privacy.merge import noise_on_mean, private_mixture, shortened
from photon.privacy.noise import normals
from photon.privacy.share import share_for

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
