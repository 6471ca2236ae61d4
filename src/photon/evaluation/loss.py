"""Token loss, perplexity, bits per byte, accuracy; and the unigram model as the floor to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.config.llm import Inner
from photon.data.read.shards import RowSource
from photon.errors import DataError
from photon.model.activations import scored_rows
from photon.model.precision import autocast

DoneCallback = Callable[[float], None]
"""Takes the share of the work that is done, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class LossReport:
    """Validation result.

    Attributes:
        loss: mean token loss in nats.
        accuracy: share of tokens that were the likeliest.
        num_tokens: targets scored.
        bytes_per_token: of the text behind the tokens.
        of_clients: clients over whose models this is the mean; 0: it is of one model.
    """

    loss: float
    accuracy: float
    num_tokens: int
    bytes_per_token: float
    of_clients: int = 0

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Loss / (ln 2 x bytes per token): comparable between tokenizers."""
        return self.loss / (math.log(2) * self.bytes_per_token)


def mean_report(reports: Sequence[LossReport]) -> LossReport:
    """Mean loss and accuracy of several models on one text, all alike."""
    count = len(reports)
    return replace(
        reports[0],
        loss=sum(one.loss for one in reports) / count,
        accuracy=sum(one.accuracy for one in reports) / count,
        of_clients=count,
    )


def perplexity(loss: float) -> float:
    """Exp of a mean loss in nats; infinite where that overflows, NaN of NaN."""
    return math.inf if loss >= 700 else math.exp(loss)


def bytes_per_token(rows: RowSource) -> float:
    """Bytes of UTF-8 text behind one token of a data folder."""
    return rows.manifest["text_bytes"] / rows.manifest["text_tokens"]


@dataclass(frozen=True, slots=True)
class Share:
    """This process among those that score together: it takes every `size`-th batch, from `rank` on.

    Attributes:
        add: all-reduce: sums a tensor over the processes.
    """

    rank: int = 0
    size: int = 1
    add: Callable[[Tensor], Tensor] = lambda sums: sums


ALL = Share()
"""One process scores everything."""


def held_out_loss(
    model: nn.Module,
    rows: RowSource,
    inner: Inner,
    share: Share = ALL,
    progress: DoneCallback = lambda done: None,
) -> LossReport:
    """`evaluate_loss` as a run's keys have it."""
    return evaluate_loss(
        model,
        rows,
        batch_size=scored_rows(inner),
        max_rows=inner.validation_batches * inner.validation_rows,
        precision=inner.precision,
        share=share,
        progress=progress,
    )


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    rows: RowSource,
    *,
    batch_size: int,
    max_rows: int = -1,
    precision: str = "fp32",
    share: Share = ALL,
    progress: DoneCallback = lambda done: None,
) -> LossReport:
    """Score a model on rows in their order on disk.

    Args:
        batch_size: rows of one forward pass.
        max_rows: evenly spread ones; below 1: all.
        precision: of the forward pass; the loss is summed in fp32.
        progress: told which share is done.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    for batch, counts, done in _shared_batches(rows, batch_size, max_rows, share):
        part = torch.from_numpy(batch).to(device)
        with autocast(precision, device):
            logits = model(part[:, :-1]).flatten(0, 1)
        if counts:
            sums += _score(logits, part[:, 1:].flatten())
        progress(done)
    model.train(was_training)
    total, correct, tokens = share.add(sums).tolist()
    return LossReport(total / tokens, correct / tokens, int(tokens), bytes_per_token(rows))


def _score(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed loss, likeliest tokens that were right, tokens: float64."""
    loss = F.cross_entropy(logits.float(), targets, reduction="sum")
    correct = (logits.argmax(-1) == targets).sum()
    return torch.stack([loss.double(), correct.double(), torch.full_like(loss, targets.numel())])


def _shared_batches(
    rows: RowSource, batch_size: int, max_rows: int, share: Share
) -> Iterator[tuple[np.ndarray, bool, float]]:
    """This process's batches, whether they count, and the share that is done after each.

    All processes get the same number, since a sharded model's forward pass needs all of them: where
    they do not come out even, the last batch is scored once more and dropped.
    """
    parts = _indices(rows, batch_size, max_rows)
    for first in range(0, len(parts), share.size):
        turn = first + share.rank
        done = min(1.0, (first + share.size) / len(parts))
        yield rows.read(parts[min(turn, len(parts) - 1)]), turn < len(parts), done


def _indices(rows: RowSource, batch_size: int, max_rows: int) -> list[np.ndarray]:
    indices = np.arange(len(rows))
    if 0 < max_rows < len(rows):
        indices = np.arange(max_rows) * len(rows) // max_rows
    return [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]


def unigram_loss(train: Sequence[RowSource], validation: RowSource) -> float:
    """Loss in nats of a model that knows only how often each token occurs in the training text.

    p(token) = (count + 1) / (N + V): add-one smoothing keeps unseen tokens finite.

    Raises:
        DataError: a part has no counts of its tokens.
    """
    for rows in train:
        if "unigram" not in rows.manifest:
            raise DataError(
                f"{rows.folder}: its manifest has no token frequencies (unigram); prepare the data "
                "again, or set fl.allow_unigram_metrics_failures=true"
            )
    counts = sum(np.asarray(rows.manifest["unigram"], dtype=np.float64) for rows in train)
    counts = np.asarray(counts) + 1.0
    log_probs = np.log(counts / counts.sum())
    total, tokens = 0.0, 0
    for indices in _indices(validation, 1024, -1):
        batch = validation.read(indices)
        total -= float(log_probs[batch[:, 1:]].sum())
        tokens += batch[:, 1:].size
    return total / tokens
