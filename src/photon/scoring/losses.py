"""Losses of a model: on the validation set, on clients' own held-out parts, on text files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from photon.data.manifest import clients_of
from photon.data.read.shards import RowSource
from photon.data.tokenizer import load_tokenizer
from photon.errors import DataError, MismatchedCheckpoint
from photon.evaluation.likelihood import Passes
from photon.evaluation.loss import LossReport, held_out_loss, unigram_loss
from photon.evaluation.text import evaluate_text
from photon.run.own_layers import mean_over_clients, worn
from photon.run.run_data import VALIDATION, RunData, find_data
from photon.scoring.candidate import Candidate
from photon.scoring.text_files import read_text_file


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScore:
    """A model's loss on a text.

    Attributes:
        loss: nats per token.
        above_unigram: loss minus that of token frequencies, which makes losses of different
            texts comparable (Roh et al. 2020 call exp of it the unigram-normalised perplexity);
            None where the training text's frequencies are not known.
        of_clients: clients over whose models this is the mean; 0: it is of one model.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    accuracy: float
    tokens: int
    above_unigram: float | None = None
    of_clients: int = 0


ToScore = Callable[[Passes], LossScore]


def losses_to_score(
    candidate: Candidate, texts: Sequence[Path], per_client: bool
) -> dict[str, ToScore]:
    """What to compute, by name; nothing is read before it is called.

    Returns:
        The validation set if the model's data is known, the clients' parts if asked for, the texts.
        Where there would be nothing to score at all, it says so when it is called.
    """
    train, val = candidate.config.data.train, candidate.config.data.validation
    places = (train.root, train.store, val.root, val.store)
    wanted: dict[str, ToScore] = {}
    if any(places):
        wanted[VALIDATION] = lambda passes: _part_loss(candidate, passes, VALIDATION)
        for client in _clients(candidate) if per_client else ():
            part = f"client_{client}/{VALIDATION}"
            wanted[part] = lambda passes, p=part, c=client: _part_loss(candidate, passes, p, c)
    elif per_client or not (texts or candidate.config.scoring.tasks):
        wanted[VALIDATION] = _no_data
    for path in texts:
        wanted[_text_name(path)] = lambda passes, path=path: _text_loss(candidate, passes, path)
    return wanted


def _text_name(path: Path) -> str:
    """A file's path, in a form that no part of the data has as its name."""
    name = str(path)
    return f"./{name}" if re.fullmatch(rf"(client_\d+/)?{VALIDATION}", name) else name


def _no_data(_: Passes) -> LossScore:
    raise DataError(
        "the model's data is not known: give dataset.val.root_local, --text FILE, or tasks "
        "(icl_tasks_config)"
    )


def _part_loss(
    candidate: Candidate, passes: Passes, part: str, client: int | None = None
) -> LossScore:
    data = _data_of(candidate)
    rows = data.rows(part)

    def score() -> LossReport:
        inner = candidate.config.inner
        return held_out_loss(candidate.model, rows, inner, passes.share, passes.progress)

    return _loss_score(candidate, score, _unigram(data, _clients(candidate), rows), client)


def _clients(candidate: Candidate) -> range:
    """The run's; of a model that brings no data, those that the data was prepared for. None where
    that cannot be read, as the validation set tells.
    """
    data, population = candidate.config.data, candidate.config.federation.population
    if data.train.root or data.train.store:
        return range(population)
    try:
        return clients_of(find_data(data.validation, population)[1])
    except DataError:
        return range(0)


def _data_of(candidate: Candidate) -> RunData:
    """The data, found; its tokens must be those of the model's tokenizer."""
    config = candidate.config
    train, validation = config.data.train, config.data.validation
    clients = config.federation.population
    if validation.root or validation.store:
        validation = validation.but(root=str(find_data(validation, clients)[0]))
        if not (train.root or train.store):
            train = train.but(root=validation.root)
    else:
        train = train.but(root=str(find_data(train, clients)[0]))
    found = config.data.but(train=train, validation=validation)
    data = RunData.of(found, config.inner, config.seed)
    theirs = load_tokenizer(data.tokenizer).get_vocab()
    if theirs != candidate.encoder.tokenizer.get_vocab():
        raise MismatchedCheckpoint(
            f"{data.root}: was tokenised by another tokenizer than that of {candidate.name}; its "
            "token ids mean other text"
        )
    return data


def _unigram(data: RunData, clients: range, rows: RowSource) -> float | None:
    try:
        return unigram_loss([data.client_rows(client) for client in clients], rows)
    except DataError:
        return None  # the training text need not be here


def _text_loss(candidate: Candidate, passes: Passes, path: Path) -> LossScore:
    text = read_text_file(path)

    def score() -> LossReport:
        return evaluate_text(candidate.model, candidate.encoder, text, passes)

    return _loss_score(candidate, score, None)


def _loss_score(
    candidate: Candidate,
    score: Callable[[], LossReport],
    unigram: float | None,
    client: int | None = None,
) -> LossScore:
    """Args: `client`: whose layers the model wears, if they keep some; None: all, in turn."""
    model, own = candidate.model, candidate.own
    if own is None:
        report = score()
    elif client is None:
        report = mean_over_clients(model, own, own.answers, score)
    else:
        with worn(model, own.read(client)):
            report = score()
    return LossScore(
        loss=report.loss,
        perplexity=report.perplexity,
        bits_per_byte=report.bits_per_byte,
        accuracy=report.accuracy,
        tokens=report.num_tokens,
        above_unigram=None if unigram is None else report.loss - unigram,
        of_clients=report.of_clients,
    )
