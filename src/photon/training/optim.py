"""Inner optimizers, and their moments as named trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from photon.config.llm import OptimizerConfig
from photon.core.tree import Tree
from photon.model.flops import embedding_names
from photon.model.sharding import is_sharded, like_parameter
from photon.training.adopt import Adopt
from photon.training.muon import Muon

_MOMENTS = {
    AdamW: ("exp_avg", "exp_avg_sq"),
    Adopt: ("exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
    SGD: (),
}
_ELEMENTWISE: dict[str, type[Optimizer]] = {"sgd": SGD, "adopt": Adopt}
"""By name; the others are AdamW."""


class InnerOptimizer:
    """torch's own optimizers (and ADOPT, Muon) over disjoint parameters, stepped together.

    `muon` orthogonalises the updates of the matrices between embedding and logits (Jordan et al.
    2024), scaled to AdamW's update size so that both share one learning rate (Liu et al. 2025,
    arXiv:2502.16982, eq. 4), and leaves the rest to AdamW. `decoupled_adamw` decays by
    weight_decay x lr / peak lr (Loshchilov and Hutter 2019, algorithm 2), which is AdamW with the
    decay divided by the peak.

    Args:
        model: its parameters that need a gradient are trained, its matrices with weight decay.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        hidden, rest = _divided(model, config)
        self._parameters = hidden | rest
        self._parts: list[Optimizer] = []
        if hidden:
            numbers = config.model_dump(include={"lr", "weight_decay", "momentum"})
            self._parts.append(Muon(hidden.values(), **numbers))
        if rest:
            self._parts.append(_elementwise(list(rest.values()), config))

    def step(self, lr: float) -> None:
        """Update the parameters from their gradients."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Moments by name, each over the parameters that have it; zeros before the first step.

        Views, not copies.
        """
        trees: dict[str, dict[str, Tensor]] = {}
        for part in self._parts:
            for moment in _MOMENTS[type(part)]:
                trees[moment] = {
                    name: state[moment].detach() if moment in state else torch.zeros_like(p)
                    for name, p in self._owned(part)
                    for state in (part.state[p],)
                }
        return trees

    @torch.no_grad()
    def load(self, moments: Mapping[str, Tree], step: int) -> None:
        """Replace the moments by copies of these; none: start afresh.

        Args:
            step: steps that they have seen; decides the bias correction.
        """
        for part in self._parts:
            names = _MOMENTS[type(part)] if moments else ()
            if not names:
                part.state.clear()
            for name, p in self._owned(part) if names else ():
                before = part.state[p]
                part.state[p] = {m: _copied(moments[m][name], p, before.get(m)) for m in names}
                if isinstance(part, AdamW | Adopt):
                    device = p.device if isinstance(part, AdamW) else "cpu"
                    part.state[p]["step"] = torch.tensor(float(step), device=device)

    def _owned(self, part: Optimizer) -> Sequence[tuple[str, nn.Parameter]]:
        owned = {id(p) for group in part.param_groups for p in group["params"]}
        return [(name, p) for name, p in self._parameters.items() if id(p) in owned]


def first_moments(model: nn.Module, config: OptimizerConfig) -> dict[str, dict[str, Tensor]]:
    """What `InnerOptimizer.moments` gives before the first step, without an optimizer.

    To make one imports torch's compiler, which takes a second.
    """
    hidden, rest = _divided(model, config)
    parts = [(Muon, hidden), (_ELEMENTWISE.get(config.name, AdamW), rest)]
    return {
        moment: {name: torch.zeros_like(p.detach()) for name, p in owned.items()}
        for kind, owned in parts
        if owned
        for moment in _MOMENTS[kind]
    }


def _divided(
    model: nn.Module, config: OptimizerConfig
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """What Muon updates, and what the elementwise optimizer does."""
    tables, hidden, rest = embedding_names(model), {}, {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            is_hidden = config.name == "muon" and p.dim() == 2 and name not in tables
            (hidden if is_hidden else rest)[name] = p
    return hidden, rest


def _copied(value: Tensor, parameter: Tensor, place: Tensor | None) -> Tensor:
    """The value as the parameter lies, in a tensor that there is already if possible."""
    if place is None or is_sharded(parameter):
        return like_parameter(value, parameter)
    return place.copy_(value, non_blocking=True)


def _elementwise(params: Sequence[nn.Parameter], config: OptimizerConfig) -> Optimizer:
    decay = config.weight_decay / (config.lr if config.name == "decoupled_adamw" else 1.0)
    groups: list[dict] = [
        {"params": [p for p in params if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        return SGD(groups, lr=config.lr)
    if config.name == "adopt":
        return Adopt(groups, lr=config.lr, betas=config.decay_rates, eps=config.epsilon)
    numbers = {"betas": config.decay_rates, "eps": config.epsilon}
    return AdamW(groups, lr=config.lr, **numbers, fused=True)
