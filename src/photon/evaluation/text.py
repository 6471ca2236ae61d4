"""The loss of any text."""

from __future__ import annotations

from collections.abc import Sequence

from photon.evaluation.likelihood import DEFAULT, Passes, likelihoods
from photon.evaluation.loss import LossReport
from photon.evaluation.requests import Request, TextEncoder
from photon.model.build import LanguageModel


def windows(ids: Sequence[int], before: int, length: int) -> list[Request]:
    """Pieces of a text in each of which every token is scored after those before it.

    Args:
        before: the token that the text's first one is scored after.
        length: most tokens of a piece; it sees nothing of the pieces before but their last token.
    """
    all_ids = (before, *ids)
    starts = range(0, len(ids), length)
    pieces = [all_ids[start : start + length + 1] for start in starts]
    return [Request(piece, len(piece) - 1) for piece in pieces]


def evaluate_text(
    model: LanguageModel, encoder: TextEncoder, text: str, passes: Passes = DEFAULT
) -> LossReport:
    """Loss, accuracy and bits per byte of a text that is not empty; every token is scored once."""
    pieces = windows(encoder.ids(text), encoder.end, model.max_seq_len)
    scores = [score for (score,) in likelihoods(model, [[piece] for piece in pieces], passes)]
    tokens = sum(score.num_tokens for score in scores)
    return LossReport(
        loss=sum(score.nll for score in scores) / tokens,
        accuracy=sum(score.num_hits for score in scores) / tokens,
        num_tokens=tokens,
        bytes_per_token=len(text.encode()) / tokens,
    )
