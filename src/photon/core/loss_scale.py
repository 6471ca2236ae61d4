"""The factor on the loss in fp16."""

from __future__ import annotations

from dataclasses import dataclass, replace

GROWTH_INTERVAL = 2000
LEAST = 1.0
"""What still overflows is no matter of scale; each halving takes 2000 steps to be made good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScale:
    """Factor on the loss that keeps small fp16 gradients from vanishing (Micikevicius et al. 2018).

    Halved, down to 1, when a gradient overflows (that step is left out), doubled after 2000 steps
    without.

    Attributes:
        factor: now.
        good_steps: steps since it changed.
    """

    factor: float = 65536.0
    good_steps: int = 0

    def after(self, finite: bool) -> LossScale:
        """The scale for the next step."""
        if not finite:
            return LossScale(factor=max(self.factor / 2, LEAST))
        if self.good_steps + 1 == GROWTH_INTERVAL:
            return LossScale(factor=self.factor * 2)
        return replace(self, good_steps=self.good_steps + 1)
