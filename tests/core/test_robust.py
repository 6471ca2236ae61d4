"""Robust means, against dense computations written here, and against clients that lie."""

from __future__ import annotations

import pytest
import torch

from photon.core import aggregate
from photon.core.codec import BF16, encode, leaves
from photon.core.robust.gram import gram

SHAPES = {"w": (31, 17), "b": (3,), "empty": (0,)}


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
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-12, atol=0)


def test_inner_products_of_what_was_sent_and_of_any_size():
    trees = [values(seed, 1e25 if seed == 1 else 1.0) for seed in range(4)]
    sent = [leaves(encode(tree, BF16)[0], tree, BF16) for tree in trees]
    rows = dense([{n: v.to(torch.bfloat16) for n, v in tree.items()} for tree in trees])
    lengths = rows.norm(dim=1)
    error = (gram(sent) - rows @ rows.T).abs() / (lengths[:, None] * lengths)
    assert torch.isfinite(gram(sent)).all()
    assert error.max() < 1e-6


def test_no_trees_have_no_inner_products():
    with pytest.raises(ValueError, match="positive total weight"):
        gram([])
