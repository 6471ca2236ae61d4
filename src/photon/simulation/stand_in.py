"""A trainer without the arithmetic: a drawn step of the right shape and length, at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

from photon.core.seeds import derive_seed
from photon.data.read.stream import JoinedStream
from photon.training.loop import Trainer
from photon.training.schedule import lr_factor
from photon.training.state import Segment

LOSS = 2.0
"""Nats per token that every step says."""
REACH = 0.5
"""Norm of the move, in units of the learning rate: what an honest client can do with any optimizer
and the usual clipping.
"""
MOMENT, SQUARE = 1e-4, 1e-8
"""Of moments that average gradients, and of those that average squares."""


class StandIn(Trainer):
    """Has a trainer's model, optimizer and states; its steps are drawn, from the state alone.

    Attributes:
        client: whose turn it is.
    """

    client = 0

    def train(
        self,
        stream: JoinedStream | None,
        steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Segment:
        state, inner, rates = self.state, self.config, []
        for _ in range(steps):
            rates.append(inner.optimizer.lr * lr_factor(inner.schedule, state.step))
            state = state.after_step(
                inner.tokens_per_step, state.streams, taken=True, scaled=self._scaled
            )
        self._move(sum(rates))
        sums = torch.tensor([LOSS * inner.tokens_per_step, 1.0], dtype=torch.float64)
        segment = self._close(state, sums[:, None].repeat(1, steps), rates, [True] * steps)
        self.state = segment.state
        return segment

    @torch.no_grad()
    def _move(self, rate: float) -> None:
        """One step in a drawn direction."""
        seed = derive_seed(0, "stand-in", self.client, self.state.step)
        draw = torch.Generator().manual_seed(seed)
        params = [value for value in self.model.parameters() if value.requires_grad]
        moves = [torch.randn(value.shape, generator=draw) for value in params]
        length = float(torch.stack([move.norm() for move in moves]).norm())
        clip = min(1.0, self.config.clip_norm or 1.0)
        for value, move in zip(params, moves, strict=True):
            value.add_((move * (REACH * clip * rate / length)).to(value))
        filled = {
            moment: {name: value.fill_(SQUARE if "sq" in moment else MOMENT)
                     for name, value in tree.items()}
            for moment, tree in self.optimizer.moments().items()
        }  # fmt: skip
        self.optimizer.load(filled, self.state.optimizer_step)
