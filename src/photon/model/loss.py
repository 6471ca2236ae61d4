"""Cross-entropy of a linear output layer, with its gradient made in the same pass.

The logits of a large vocabulary are the largest tensor of a step. Here they live in chunks of
tokens: each chunk's logits become their own gradient and are multiplied out at once, so that what
is kept for the backward pass has the size of the hidden states and the weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LogitsGradient = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


class TokenLoss(NamedTuple):
    """Sums over tokens, in nats.

    Attributes:
        objective: what is minimised: cross-entropy plus the z-loss.
        cross_entropy: without the z-loss and without a gradient.
    """

    objective: Tensor
    cross_entropy: Tensor


def logits_gradient(
    logits: Tensor, targets: Tensor, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Objective, cross-entropy, and the objective's gradient with respect to the logits.

    With p = softmax(logits) and z = logsumexp(logits): the gradient of cross-entropy is p - onehot,
    that of z_loss z^2 is 2 z_loss z p (Chowdhery et al. 2022, section 5).

    Args:
        logits: [N, V], any float type; the sums run in float32.
        targets: [N], int64.
    """
    index = targets.unsqueeze(-1)
    gradient = torch.softmax(logits, dim=-1, dtype=torch.float32)
    # The largest probability is at least 1 / V, so its logarithm is safe where others underflow.
    largest = logits.amax(dim=-1, keepdim=True).float()
    z = largest - gradient.amax(dim=-1, keepdim=True).log()
    cross_entropy = (z - logits.gather(-1, index).float()).sum()
    objective = cross_entropy
    if z_loss:
        objective = cross_entropy + z_loss * z.square().sum()
        gradient = gradient.mul_(1.0 + 2.0 * z_loss * z)
    gradient.scatter_add_(-1, index, gradient.new_full(index.shape, -1.0))
    return objective, cross_entropy, gradient.to(logits.dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, z_loss, chunk, gradient_of):  # pyright: ignore
        kind = hidden.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else hidden.dtype
        sums = hidden.new_zeros(2, dtype=torch.float32)
        wants_gradient = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if wants_gradient else None
        grad_weight = None
        with torch.autocast(kind, enabled=False):
            matrix = weight.to(dtype)
            for h, target, out in _chunks(hidden, targets, grad_hidden, chunk):
                h = h.to(dtype)
                objective, loss, gradient = gradient_of(F.linear(h, matrix), target, z_loss)
                sums += torch.stack([objective, loss])
                if out is None:
                    continue
                torch.mm(gradient, matrix, out=out)
                part = gradient.t() @ h
                grad_weight = (
                    part.to(weight.dtype) if grad_weight is None else grad_weight.add_(part)
                )
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        objective, loss = sums.unbind()
        objective = objective.clone()
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    def backward(ctx, grad_output, _):  # pyright: ignore
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_output.to(torch.float32)
        return (
            grad_hidden.mul_(scale).to(ctx.dtypes[0]),
            grad_weight.mul_(scale).to(ctx.dtypes[1]),
            None,
            None,
            None,
            None,
        )


def _chunks(hidden: Tensor, targets: Tensor, out: Tensor | None, chunk: int):
    outs = [None] * -(-len(hidden) // chunk) if out is None else out.split(chunk)
    yield from zip(hidden.split(chunk), targets.split(chunk), outs, strict=True)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    chunk: int = 1 << 30,
    gradient_of: LogitsGradient = logits_gradient,
) -> TokenLoss:
    """Summed loss of `softmax(hidden @ weight.T)`; supports one backward pass.

    Equal to `F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")` plus the z-loss.

    Args:
        hidden: [N, D].
        weight: [V, D].
        targets: [N], int64.
        chunk: tokens whose logits exist at once; the result does not depend on it beyond rounding.
        gradient_of: `logits_gradient`, or a compiled form of it.
    """
    objective, loss = _LinearCrossEntropy.apply(  # pyright: ignore
        hidden, weight, targets, z_loss, chunk, gradient_of
    )
    return TokenLoss(objective, loss.detach())  # a compiler of torch 2.11 wants to be told again


def logits_loss(logits: Tensor, targets: Tensor, z_loss: float) -> TokenLoss:
    """The same from logits [N, V] that a model has made itself."""
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, reduction="sum")
    objective = loss
    if z_loss:
        objective = loss + z_loss * torch.logsumexp(logits, -1).square().sum()
    return TokenLoss(objective, loss.detach())
