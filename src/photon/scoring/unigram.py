"""The floor that a model must beat: token frequencies alone."""

from __future__ import annotations

from photon.config.schema import Config
from photon.evaluation.loss import LossReport, bytes_per_token, unigram_loss
from photon.run.results import Score
from photon.run.rows import VALIDATION, open_rows


def unigram_score(config: Config) -> Score:
    """The floor: token frequencies of all clients' training text, scored on the common set."""
    clients = range(config.federation.population)
    train_rows = [open_rows(config, f"client_{client}/train") for client in clients]
    validation = open_rows(config, VALIDATION)
    loss = unigram_loss(train_rows, validation)
    report = LossReport(loss, 0.0, 0, bytes_per_token(validation))
    return Score(val_loss=loss, perplexity=report.perplexity, bits_per_byte=report.bits_per_byte)
