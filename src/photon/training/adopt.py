"""ADOPT: Adam that converges with any second decay rate (Taniguchi et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Adopt(Optimizer):
    """ADOPT with its default clipping (arXiv:2411.02853, algorithm 2).

    The first step only sets v = g^2. Then, with c = step^0.25 (steps counted from 0):
    n = clip(g / max(sqrt(v), eps), -c, c);  m <- b1 m + (1 - b1) n;  w <- w - lr m;
    v <- b2 v + (1 - b2) g^2. Weight decay is decoupled: w <- w - lr decay w before the update.

    Args:
        params: parameters, or groups of them with a `weight_decay` of their own.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float], eps: float = 1e-6
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the parameters that have a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            states = [self._state_of(p) for p in params]
            gradients = [p.grad for p in params]
            first = [state["exp_avg"] for state in states]
            second = [state["exp_avg_sq"] for state in states]
            number = int(states[0]["step"])
            if number:
                _update(params, gradients, first, second, group, clip=number**0.25)
            beta_2 = group["betas"][1] if number else 0.0
            torch._foreach_mul_(second, beta_2)
            torch._foreach_addcmul_(second, gradients, gradients, value=1 - beta_2)
            for state in states:
                state["step"] += 1

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state


def _update(
    params: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    group: dict[str, Any],
    clip: float,
) -> None:
    normed = torch._foreach_sqrt(second)
    torch._foreach_clamp_min_(normed, group["eps"])
    normed = torch._foreach_div(gradients, normed)
    torch._foreach_clamp_max_(normed, clip)
    torch._foreach_clamp_min_(normed, -clip)
    torch._foreach_lerp_(first, normed, 1 - group["betas"][0])
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_add_(params, first, alpha=-group["lr"])
