"""Muon over matrices that several processes hold together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Muon, Optimizer

from photon.model.sharding import full_tensor, like_parameter


class ShardedMuon(Optimizer):
    """torch's Muon, one whole matrix at a time.

    A part of a matrix cannot be orthogonalised by itself, and Muon's products in bf16 turn the last
    bit of a sum into a third of an update. So each matrix is gathered with its gradient and its
    momentum, takes torch's own step, and every process keeps its part of the result: the bits are
    those of one process, and never more than one matrix is whole.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the matrices that have a gradient."""
        for group in self.param_groups:
            numbers = {key: group[key] for key in ("lr", "weight_decay", "momentum")}
            for p in group["params"]:
                if p.grad is not None:
                    _step_whole(p, self.state[p], numbers)


def _step_whole(p: nn.Parameter, state: dict[str, Any], numbers: dict[str, Any]) -> None:
    whole = nn.Parameter(full_tensor(p.detach()))
    assert p.grad is not None
    whole.grad = full_tensor(p.grad)
    muon = Muon([whole], adjust_lr_fn="match_rms_adamw", **numbers)
    if "momentum_buffer" in state:
        muon.state[whole] = {"momentum_buffer": full_tensor(state["momentum_buffer"])}
    muon.step()
    p.copy_(like_parameter(whole.detach(), p))
    state["momentum_buffer"] = like_parameter(muon.state[whole]["momentum_buffer"], p)
