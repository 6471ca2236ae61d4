"""Where a token stands: rotary tables and linear attention biases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from photon.errors import DataError


def require_positions(end: int, positions: int) -> None:
    """Raises: DataError: a sequence that ends at position `end` is too long for the model."""
    if end > positions:
        raise DataError(
            f"a sequence of {end} tokens is longer than the {positions} positions of the model; "
            "shorten it"
        )


def rotary_table(head_dim: int, max_seq_len: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of the rotary positions (Su et al. 2021, eq. 34).

    Returns:
        [T, head_dim] each; the second half of a head has the angles of the first, and the sines of
        the first half are negative, as `rotate` takes them.
    """
    inverse = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), inverse)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x: [B, H, T, D]; the two halves of a head form the pairs.

    A flip of the halves and not their concatenation: a compiler turns it into an index, so that
    rotation and gradient are one pass each, without a branch.

    Args:
        cos, sin: of `rotary_table`, in the type of x.
    """
    flipped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return torch.addcmul(x * cos, flipped, sin)


def alibi_slopes(n_heads: int, bias_max: int) -> Tensor:
    """Slopes of the linear biases, [H] (Press et al. 2022, section 3).

    Powers 2^(-bias_max i / n) for the next power of two n; where the heads are fewer, every
    second slope comes first, as in MPT.
    """
    n = 1 << math.ceil(math.log2(n_heads))
    slopes = 2.0 ** -(torch.arange(1, n + 1, dtype=torch.float32) * bias_max / n)
    return slopes if n == n_heads else torch.cat([slopes[1::2], slopes[::2]])[:n_heads]


def causal_bias(queries: int, keys: int, slopes: Tensor | None, device: torch.device) -> Tensor:
    """What is added to attention scores so that the future is not seen.

    Args:
        queries: the last so many of the `keys` positions ask.
        slopes: [H], the linear bias per position of distance; None for none.

    Returns:
        [1, 1, queries, keys], or [1, H, queries, keys] with slopes; -inf above the diagonal. Fused
        kernels take a bias of four dimensions only.
    """
    distance = torch.arange(keys, device=device) - torch.arange(
        keys - queries, keys, device=device
    ).unsqueeze(1)
    bias = torch.zeros(1, 1, queries, keys, device=device)
    if slopes is not None:
        bias = slopes.view(1, -1, 1, 1) * distance
    return bias.masked_fill(distance > 0, float("-inf"))
