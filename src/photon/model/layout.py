"""Where the tokens of a batch stand, if not simply one after another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions and what each token sees: for texts that share a beginning, and for padding.

    Attributes:
        positions: of the tokens, [B, T].
        key_positions: of the cached tokens and these, [B, S].
        visible: which of those each token sees, [B, T, S]; it must see one at least.
    """

    positions: Tensor
    key_positions: Tensor
    visible: Tensor

    def bias(self, slopes: Tensor | None) -> Tensor:
        """What is added to attention scores: [B, 1, T, S], or [B, H, T, S] with slopes [H]."""
        hidden = ~self.visible.unsqueeze(1)
        if slopes is None:
            zeros = torch.zeros(hidden.shape, device=hidden.device)
            return zeros.masked_fill(hidden, float("-inf"))
        distance = self.key_positions.unsqueeze(1) - self.positions.unsqueeze(2)
        return (slopes.view(1, -1, 1, 1) * distance.unsqueeze(1)).masked_fill(hidden, float("-inf"))
