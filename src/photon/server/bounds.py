"""What the updates of a round must keep to, from the configuration and the state it starts from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import leaves
from photon.core.messages import Bounds, MomentBound, ServerState
from photon.core.policy import MOST_PACE
from photon.core.tree import Tree, norm, num_elements
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
        late_steps = inner.local_steps * (MOST_PACE if fl.is_async and fl.steps_by_speed else 1)
        rates, last = sum(self._rates(state.step, steps)), state.step + steps
        farthest = self._farthest(rates, max(steps, late_steps))
        shared = {name: state.params[name] for name in self.layers.shared}
        return Bounds(
            tokens_per_step=inner.tokens_per_step,
            late_steps=round(late_steps),
            rate=rates / steps,
            norm=self._norm(shared, farthest, last),
            element=self._element(shared, farthest, last),
            moments=self._moments(state, last),
        )

    def _farthest(self, rates: float, most_steps: float) -> float:
        """The sum of learning rates that an update may be made with: that of the round's steps, or
        more where some of its steps may have been taken at other rates.
        """
        fl = self.federation
        if fl.late_exponent is None and not fl.goes_on:
            return rates
        turns = len(self.fragments.groups) / (1 - fl.fragment_alpha)
        return self.inner.optimizer.lr * most_steps * turns

    def _norm(self, shared: Tree, rates: float, last: int) -> float:
        fl, elements = self.federation, num_elements(shared)
        if fl.max_reach is None:
            return math.inf
        gain = kept_codecs(fl).gradient.gain
        most = gain * reach(self.inner, rates, last, elements, norm(shared))
        return self._noisy(fl.max_reach * most, elements)

    def _element(self, shared: Tree, rates: float, last: int) -> float:
        if not self.federation.secure_aggregation:
            return math.inf
        return self._noisy(reach_of_element(self.inner, rates, last, shared), 1)

    def _moments(self, state: ServerState, last: int) -> dict[str, MomentBound]:
        fl, number = self.federation, state.round + 1
        codecs, sent = codecs_of(fl), set(self.fragments.of_round(number))
        names = {
            moment: [name for name in self.moments[moment] if name in sent]
            for moment in averaged_in(fl, self.moments, number)
        }
        before = {
            moment: norm(leaves(tree, state.params, codecs.of_moment(moment)))
            for moment, tree in state.moments.items()
        }
        names = {moment: own for moment, own in names.items() if own}
        sizes = {name: value.numel() for name, value in state.params.items()}
        return moment_bounds(self.inner, names, sizes, before, last, codecs.moments.gain)

    def _noisy(self, reached: float, elements: int) -> float:
        """The norm that so many elements of an update may have whose steps reach so far: with the
        noise that its client adds.
        """
        privacy = self.federation.privacy
        if privacy.clip_norm is None or not privacy.is_by_clients:
            return reached
        clip = min(privacy.clip_norm, reached)
        return longest(clip, share_deviation(self.federation), elements)

    def _rates(self, first: int, steps: int) -> Iterator[float]:
        """Learning rates of these steps, one by one: a round may have millions."""
        first = 0 if self.federation.restarts_schedule else first
        peak, schedule = self.inner.optimizer.lr, self.inner.schedule
        return (peak * lr_factor(schedule, step) for step in range(first, first + steps))
