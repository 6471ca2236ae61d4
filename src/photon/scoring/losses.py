"""Losses of a model: on the validation set, on clients' own held-out parts, on text files."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from photon.config.llm import Inner
from photon.data.manifest import clients_of
from photon.data.read.shards import RowSource
from photon.data.tokenizer import load_tokenizer
from photon.errors import DataError, MismatchedCheckpoint, PhotonError
from photon.evaluation.likelihood import Passes
from photon.evaluation.loss import LossReport, bytes_per_token, held_out_loss, unigram_loss
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


@dataclass(frozen=True, slots=True)
class ToScore:
    """A loss that is still to be had; no text is read before it is called.

    Attributes:
        work: about how many bytes of text go through the model.
    """

    score: Callable[[Passes], LossScore]
    work: float = 0.0

    def __call__(self, passes: Passes) -> LossScore:
        return self.score(passes)


def losses_to_score(
    candidate: Candidate, texts: Sequence[Path], per_client: bool
) -> dict[str, ToScore]:
    """What to compute, by name.

    Returns:
        The validation set if the model's data is known, the clients' parts if asked for, the texts.
        Where there would be nothing to score at all, it says so when it is called.
    """
    train, val = candidate.config.data.train, candidate.config.data.validation
    places = (train.root, train.store, val.root, val.store)
    wanted: dict[str, ToScore] = {}
    if any(places):
        find = functools.cache(lambda: _data_of(candidate))
        wanted[VALIDATION] = _of_part(candidate, find, VALIDATION)
        for client in _clients(candidate) if per_client else ():
            part = f"client_{client}/{VALIDATION}"
            wanted[part] = _of_part(candidate, find, part, client)
    elif per_client or not (texts or candidate.config.scoring.tasks):
        wanted[VALIDATION] = ToScore(_no_data)
    for path in texts:
        score = functools.partial(_text_loss, candidate, path)
        wanted[_text_name(path)] = ToScore(score, path.stat().st_size if path.exists() else 0)
    return wanted


def _of_part(
    candidate: Candidate, find: Callable[[], RunData], part: str, client: int | None = None
) -> ToScore:
    return ToScore(
        lambda passes: _part_loss(candidate, find(), part, passes, client),
        _work_of(candidate.config.inner, find, part),
    )


def _work_of(inner: Inner, find: Callable[[], RunData], part: str) -> float:
    """None of a part that cannot be read: scoring it will say why."""
    try:
        rows = find().rows(part)
    except PhotonError:
        return 0.0
    most = inner.validation_batches * inner.validation_rows
    count = min(len(rows), most) if most > 0 else len(rows)
    return count * inner.row_length * bytes_per_token(rows)


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
    candidate: Candidate, data: RunData, part: str, passes: Passes, client: int | None
) -> LossScore:
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


def _text_loss(candidate: Candidate, path: Path, passes: Passes) -> LossScore:
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
