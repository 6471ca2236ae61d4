"""The floor that a model must beat: token frequencies alone."""

from __future__ import annotations

from photon.evaluation.loss import LossReport, bytes_per_token, unigram_loss
from photon.run.results import Score
from photon.run.run_data import VALIDATION, RunData


def unigram_score(data: RunData, population: int) -> Score:
    """The floor: token frequencies of all clients' training text, scored on the common set."""
    validation = data.rows(VALIDATION)
    loss = unigram_loss([data.client_rows(client) for client in range(population)], validation)
    report = LossReport(loss, 0.0, 0, bytes_per_token(validation))
    return Score(val_loss=loss, perplexity=report.perplexity, bits_per_byte=report.bits_per_byte)
