"""Muon: momentum, orthogonalised (Jordan et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from photon.model.sharding import full_tensor, like_parameter

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration: steepest at zero, singular values end in 0.7 .. 1.2."""
NEWTON_SCHULZ_STEPS = 5


class Muon(Optimizer):
    """torch.optim.Muon's rule, with `match_rms_adamw`, for whole and for sharded matrices.

    It differs from torch's in two ways. On a CPU the products are fp32: most processors emulate
    bf16 (ten times slower), and bf16 turns the last bit of a gradient into a third of an update. A
    matrix that several processes hold is gathered with its momentum, since a part of it cannot be
    orthogonalised by itself: never more than one is whole.

    Args:
        params: matrices [out, in].
        lr: learning rate, shared with AdamW: updates have AdamW's size (Liu et al. 2025,
            arXiv:2502.16982, eq. 4).
        weight_decay: decoupled, times lr.
        momentum: decay of Nesterov's average of gradients.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the matrices that have a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    _step_matrix(p, p.grad, self.state[p], group)


def orthogonalize(matrix: Tensor) -> Tensor:
    """About U V^T of the matrix U S V^T, by five steps of a quintic Newton-Schulz iteration.

    Args:
        matrix: [m, n].

    Returns:
        [m, n]; singular values between 0.7 and 1.2. In bf16, on a CPU in fp32.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix if matrix.device.type == "cpu" else matrix.bfloat16()
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _step_matrix(p: nn.Parameter, grad: Tensor, state: dict[str, Any], group: dict) -> None:
    momentum = state.setdefault("momentum_buffer", torch.zeros_like(p))
    momentum.lerp_(grad, 1 - group["momentum"])
    update = orthogonalize(full_tensor(grad.lerp(momentum, group["momentum"])))
    size = 0.2 * max(p.shape) ** 0.5
    p.mul_(1 - group["lr"] * group["weight_decay"])
    p.add_(like_parameter(update, p), alpha=-group["lr"] * size)
