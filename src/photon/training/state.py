"""What the training loop saves and resumes, and what a segment of it measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

from photon.core.loss_scale import LossScale
from photon.core.messages import StreamState
from photon.core.tree import Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """Everything that training goes on from.

    Attributes:
        params, moments: trees on the CPU.
        optimizer_step: steps that the moments have seen.
        step: the next step of the run; the schedule reads it.
        steps_done, skipped_steps, num_tokens, loss_sum: since training of this round (or run)
            began; the sum is over tokens, in nats; tokens of skipped steps do not count.
        loss_scale: of fp16.
        streams: positions in the data.
    """

    params: Tree = field(default_factory=dict)
    moments: Mapping[str, Tree] = field(default_factory=dict)
    optimizer_step: int = 0
    step: int = 0
    steps_done: int = 0
    skipped_steps: int = 0
    num_tokens: int = 0
    loss_sum: float = 0.0
    loss_scale: LossScale = field(default_factory=LossScale)
    streams: tuple[StreamState, ...] = ()

    @property
    def train_loss(self) -> float:
        """Mean training loss in nats per token; NaN before the first step."""
        return self.loss_sum / self.num_tokens if self.num_tokens else math.nan

    def after_step(
        self, tokens: int, streams: tuple[StreamState, ...], *, taken: bool, scaled: bool
    ) -> TrainState:
        """The counters after one more step, which the optimizer took or left out, of a loss that
        was scaled (fp16) or not; the loss itself is added when the segment closes.
        """
        return replace(
            self,
            optimizer_step=self.optimizer_step + taken,
            step=self.step + 1,
            steps_done=self.steps_done + 1,
            skipped_steps=self.skipped_steps + (not taken),
            num_tokens=self.num_tokens + tokens * taken,
            loss_scale=self.loss_scale.after(taken) if scaled else self.loss_scale,
            streams=streams,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """What one call of the loop did.

    Attributes:
        state: after it.
        num_tokens: trained on in this segment.
        losses: of each step: mean over its tokens, in nats.
        gradient_norms: of each step, before clipping.
        learning_rates: of each step.
        taken: of each step: whether the optimizer took it.
        data_wait: seconds that the steps stood still for their rows, in all.
    """

    state: TrainState
    num_tokens: int
    losses: Sequence[float]
    gradient_norms: Sequence[float]
    learning_rates: Sequence[float]
    taken: Sequence[bool]
    data_wait: float = 0.0

    @property
    def train_loss(self) -> float:
        """Mean over the steps that were taken."""
        return self._mean(self.losses)

    @property
    def gradient_norm(self) -> float:
        """Mean over the steps that were taken."""
        return self._mean(self.gradient_norms)

    def _mean(self, values: Sequence[float]) -> float:
        count = sum(self.taken)
        return sum(compress(values, self.taken)) / count if count else math.nan

    def first_bad_step(self) -> int | None:
        """Index of the first step that spoiled the weights: taken, though not finite."""
        for index, each in enumerate(zip(self.losses, self.gradient_norms, strict=True)):
            if self.taken[index] and not all(map(math.isfinite, each)):
                return index
        return None
