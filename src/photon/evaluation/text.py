"""The loss of any text."""

from __future__ import annotations

from collections.abc import Sequence

from photon.data.prepare.encode import Encoder
from photon.errors import DataError
from photon.evaluation.likelihood import DEFAULT, Passes, likelihoods
from photon.evaluation.loss import LossReport
from photon.evaluation.requests import ScoredText
from photon.model.build import LanguageModel


def windows(ids: Sequence[int], before: int, length: int) -> list[ScoredText]:
    """Pieces of a text in which every token is scored once, cut as lm-eval cuts them.

    Args:
        before: the token that the text's first one is scored after.
        length: tokens scored in a piece; the last piece has fewer and sees more before them.
    """
    all_ids = (before, *ids)
    stops = [*range(length, len(ids), length), len(ids)]
    return [
        ScoredText(all_ids[max(0, stop - length) : stop + 1], stop - start)
        for start, stop in zip([0, *stops], stops, strict=False)
    ]


def evaluate_text(
    model: LanguageModel, encoder: Encoder, text: str, passes: Passes = DEFAULT
) -> LossReport:
    """Loss, accuracy and bits per byte of a text; every token is scored once.

    Raises:
        DataError: the text has no tokens.
    """
    if not (ids := encoder.ids(text)):
        raise DataError("the model's tokenizer makes no token of this text; give another text")
    pieces = windows(ids, encoder.facts.start, model.max_seq_len)
    scores = [score for (score,) in likelihoods(model, [[piece] for piece in pieces], passes)]
    tokens = sum(score.num_tokens for score in scores)
    return LossReport(
        loss=sum(score.nll for score in scores) / tokens,
        accuracy=sum(score.num_hits for score in scores) / tokens,
        num_tokens=tokens,
        bytes_per_token=len(text.encode()) / tokens,
    )
