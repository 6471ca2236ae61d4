"""What the updates of a round must keep to, from the configuration and the state it starts from."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import leaves
from photon.core.messages import Bounds, ServerState
from photon.core.policy import MOST_PACE
from photon.core.tree import norm, num_elements
from photon.privacy.share import longest
from photon.privacy.terms import share_deviation
from photon.training.fragments import Fragments
from photon.training.layers import LayerRoles
from photon.training.outline import averaged_in, codecs_of, kept_codecs, outline_of
from photon.training.reach import moment_bounds, reach, reach_of_element
from photon.training.schedule import lr_factor


class Honesty:
    """Gives the bounds of each round of a run.

    Attributes:
        moments: those that are averaged -> names of the parameters that have them.
    """

    def __init__(
        self, federation: Federation, inner: Inner, layers: LayerRoles, fragments: Fragments
    ) -> None:
        self.federation, self.inner, self.layers = federation, inner, layers
        self.fragments = fragments
        moments = outline_of(inner, federation).moments if federation.averages_moments else {}
        self.moments = {name: list(tree) for name, tree in moments.items()}

    def bounds(self, state: ServerState, steps: int) -> Bounds:
        """Of the round that begins with this state, if no client takes more than `steps`."""
        inner, fl = self.inner, self.federation
        shared = {name: state.params[name] for name in self.layers.shared}
        last = state.step + steps
        of_steps = farthest = sum(self._rates(state.step, steps))
        most = inner.local_steps * (MOST_PACE if fl.is_async and fl.steps_by_speed else 1)
        if fl.late_exponent is not None or fl.goes_on:  # some of the steps had other rates
            turns = len(self.fragments.groups) / (1 - fl.fragment_alpha)
            farthest = inner.optimizer.lr * max(steps, most) * turns
        codecs, due = codecs_of(fl), averaged_in(fl, self.moments, state.round + 1)
        most_norm = kept_codecs(fl).gradient.gain * reach(
            inner, farthest, last, num_elements(shared), norm(shared)
        )
        before = {
            n: norm(leaves(tree, state.params, codecs.of_moment(n)))
            for n, tree in state.moments.items()
        }
        names = set(self.fragments.of_round(state.round + 1))
        sizes = {name: value.numel() for name, value in state.params.items()}
        return Bounds(
            tokens_per_step=inner.tokens_per_step,
            late_steps=round(most),
            rate=of_steps / steps,
            norm=math.inf
            if fl.max_reach is None
            else self._noisy(fl.max_reach * most_norm, num_elements(shared)),
            element=self._noisy(reach_of_element(inner, farthest, last, shared), 1)
            if fl.secure_aggregation
            else math.inf,
            moments=moment_bounds(
                inner,
                {name: own for name in due if (own := self._of(name, names))},
                sizes,
                before,
                last,
                codecs.moments.gain,
            ),
        )

    def _noisy(self, reached: float, elements: int) -> float:
        """Norm of so many elements of an update whose steps reach so far; with the noise that its
        client adds.
        """
        clip = self.federation.privacy.clip_norm
        if clip is None or not self.federation.privacy.is_by_clients:
            return reached
        return longest(min(clip, reached), share_deviation(self.federation), elements)

    def _of(self, moment: str, names: Collection[str]) -> list[str]:
        """Those of these parameters that have a moment."""
        return [name for name in self.moments[moment] if name in names]

    def _rates(self, first: int, steps: int) -> Iterator[float]:
        """Learning rates of these steps, one by one: a round may have millions."""
        first = 0 if self.federation.restarts_schedule else first
        peak, schedule = self.inner.optimizer.lr, self.inner.schedule
        return (peak * lr_factor(schedule, step) for step in range(first, first + steps))
