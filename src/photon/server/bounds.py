"""What the updates of a round must keep to, from the configuration and the state it starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import leaves
from photon.core.messages import Bounds, ServerState
from photon.core.tree import norm, num_elements
from photon.training.layers import Layers
from photon.training.outline import codec_of, outline_of
from photon.training.reach import moment_bounds, reach
from photon.training.schedule import lr_factor


@dataclass(frozen=True, slots=True)
class Honesty:
    """Gives the bounds of each round of a run.

    Attributes:
        moments: those that are averaged: which parameters have them.
    """

    federation: Federation
    inner: Inner
    layers: Layers
    moments: dict[str, list[str]]

    @classmethod
    def of(cls, federation: Federation, inner: Inner, layers: Layers) -> Honesty:
        if not federation.averages_moments:
            return cls(federation, inner, layers, {})
        moments = outline_of(inner, federation).moments
        return cls(federation, inner, layers, {name: list(tree) for name, tree in moments.items()})

    def bounds(self, state: ServerState, steps: int) -> Bounds:
        """Of the round that begins with this state.

        Args:
            steps: the most that any client takes.
        """
        inner, fl = self.inner, self.federation
        shared = {name: state.params[name] for name in self.layers.shared}
        last, rates = state.step + steps, self._rates(state.step, steps)
        farthest = sum(rates)
        if fl.staleness_exponent is not None:  # late updates had other rates
            farthest = inner.optimizer.lr * max(steps, inner.local_steps)
        most = reach(inner, farthest, last, num_elements(shared), norm(shared))
        codec = codec_of(self.federation)
        before = {n: norm(leaves(tree, state.params, codec)) for n, tree in state.moments.items()}
        sizes = {name: value.numel() for name, value in state.params.items()}
        return Bounds(
            tokens_per_step=inner.tokens_per_step,
            late_steps=inner.local_steps,
            rate=sum(rates) / len(rates),
            norm=math.inf if fl.max_reach is None else fl.max_reach * most,
            moments=moment_bounds(inner, self.moments, sizes, before, last),
        )

    def _rates(self, first: int, steps: int) -> list[float]:
        """Learning rates of these steps."""
        inner = self.inner
        first = 0 if self.federation.restarts_schedule else first
        schedule = inner.schedule
        return [inner.optimizer.lr * lr_factor(schedule, s) for s in range(first, first + steps)]
