"""The loss of public text, by which a server scores updates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.tree import Readable, Row, Tree, read
from photon.core.trust.scores import ScoreRules
from photon.data.read.shards import RowSource
from photon.evaluation.loss import evaluate_loss
from photon.model.activations import scored_rows
from photon.model.build import model_with
from photon.server.scoring import PublicLoss, Scoring


def scoring_of(
    fl: Federation, inner: Inner, rows: RowSource, device: torch.device
) -> Scoring | None:
    """What scores the updates of a run, if that is asked for.

    Args:
        rows: public text.
        device: that the model is scored on.
    """
    keys = fl.judging
    if not keys.enabled:
        return None
    rules = ScoreRules(
        deviations=keys.deviations, failures=keys.failures, rounds=keys.quarantine
    )  # fmt: skip
    loss: PublicLoss | None = _PublicText(inner, rows, keys.rows, device) if keys.rows else None
    return Scoring(rules, loss)


@dataclass(frozen=True, slots=True)
class _PublicText:
    """Scores parameters on evenly spread rows."""

    inner: Inner
    rows: RowSource
    count: int
    device: torch.device

    def __call__(self, params: Tree, less: Readable, part: float) -> float:
        moved = {name: self._moved(value, less.get(name), part) for name, value in params.items()}
        return evaluate_loss(
            model_with(self.inner, moved, self.device),
            self.rows,
            batch_size=scored_rows(self.inner),
            max_rows=self.count,
            precision=self.inner.precision,
        ).loss

    @staticmethod
    def _moved(value: Tensor, by: Tensor | Row | None, part: float) -> Tensor:
        if by is None:
            return value
        return value - part * read(by, 0, value.numel()).view(value.shape)
