"""Numbers about a round that do not change it."""

from __future__ import annotations

from photon.core.tree import Tree, dot, norm


def cosine(left: Tree, right: Tree) -> float:
    """Cosine of the angle between two trees; 0 if one of them is zero."""
    scale = norm(left) * norm(right)
    return dot(left, right) / scale if scale > 0 else 0.0


def data_parallel_bytes(num_parameters: int, num_workers: int, num_steps: int) -> int:
    """Bytes that all workers together send in data-parallel training with bf16 gradients.

    A ring all-reduce sends 2 (K - 1) / K of the gradient per worker and step (Patarasuk and Yuan
    2009), so 2 (K - 1) gradients of 2 bytes per parameter for all K workers.
    """
    return 2 * (num_workers - 1) * 2 * num_parameters * num_steps
