"""DiLoCo in plain torch, as one writes it by hand: no files, no processes, no Photon.

Douillard et al. 2023, arXiv:2311.08105, algorithm 1: each client trains the global model for some
steps with AdamW, whose moments it keeps; the mean of what they moved is the gradient of an outer
step with Nesterov momentum. What `peers.py` measures Photon against, and an oracle for its tests:
the same rows in the same order give the same parameters.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Callable[[], Tensor]
"""The next batch of a client: token ids [B, T + 1]."""


@dataclass(frozen=True)
class Recipe:
    """Numbers of a run; the learning rate falls to a tenth by a cosine after its warm-up."""

    rounds: int
    local_steps: int
    lr: float = 1e-3
    warmup: int = 2
    floor: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    outer_lr: float = 0.7
    outer_momentum: float = 0.9

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / (self.rounds * self.local_steps - self.warmup)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)


class Client:
    """One worker: a copy of the model, an inner optimizer that lasts, and its own data."""

    def __init__(self, model: nn.Module, recipe: Recipe, batches: Batches) -> None:
        self.model, self.recipe, self.batches = copy.deepcopy(model), recipe, batches
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
        self.steps = 0

    def train(self, start: nn.Module) -> float:
        """Train from the global model; the mean loss."""
        self.model.load_state_dict(start.state_dict())
        return sum(self._step() for _ in range(self.recipe.local_steps)) / self.recipe.local_steps

    def _step(self) -> float:
        batch = self.batches()
        logits = self.model(batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.steps)
        self.optimizer.step()
        self.steps += 1
        return loss.item()


@dataclass
class Trajectory:
    """Of each round the mean training loss; `model` has the last parameters."""

    model: nn.Module
    losses: list[float] = field(default_factory=list)


def diloco(
    model: nn.Module,
    data: Sequence[Batches],
    recipe: Recipe,
    ended: Callable[[], None] = lambda: None,
) -> Trajectory:
    """Train the model, in place.

    Args:
        data: of each client.
        ended: called at the end of each round.
    """
    clients = [Client(model, recipe, batches) for batches in data]
    outer = torch.optim.SGD(
        model.parameters(), lr=recipe.outer_lr, momentum=recipe.outer_momentum, nesterov=True
    )
    found = Trajectory(model)
    for _ in range(recipe.rounds):
        losses = [client.train(model) for client in clients]
        for mine, *theirs in zip(
            model.parameters(), *(client.model.parameters() for client in clients), strict=True
        ):
            mine.grad = mine.detach() - torch.stack([p.detach() for p in theirs]).mean(0)
        outer.step()
        found.losses.append(sum(losses) / len(losses))
        ended()
    return found
