"""Token loss, perplexity, bits per byte, accuracy; and the unigram model as the floor to beat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from photon.data.shards import Rows


@dataclass(frozen=True, slots=True)
class LossReport:
    """Validation result.

    Attributes:
        loss: mean token loss in nats.
        accuracy: share of tokens that were the likeliest.
        num_tokens: targets scored.
        bytes_per_token: of the text behind the tokens.
    """

    loss: float
    accuracy: float
    num_tokens: int
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss; infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Loss / (ln 2 x bytes per token): comparable between tokenizers."""
        return bits_per_byte(self.loss, self.bytes_per_token)


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    return loss / (math.log(2) * bytes_per_token)


def bytes_per_token(rows: Rows) -> float:
    """Bytes of UTF-8 text behind one token of a data folder."""
    return rows.manifest["text_bytes"] / rows.manifest["text_tokens"]


@torch.no_grad()
def evaluate_loss(
    model: nn.Module, rows: Rows, *, batch_size: int, max_batches: int = -1
) -> LossReport:
    """Score a model on rows in their order on disk.

    Args:
        batch_size: rows of one forward pass.
        max_batches: -1 scores all rows, else evenly spread rows that fill so many batches.
    """
    device = next(model.parameters()).device
    total, correct, tokens = 0.0, 0, 0
    was_training = model.training
    model.eval()
    for batch in _batches(rows, batch_size, max_batches):
        part = torch.from_numpy(batch).to(device)
        targets = part[:, 1:].flatten()
        logits = model(part[:, :-1]).flatten(0, 1)
        correct += int((logits.argmax(-1) == targets).sum())
        total += float(F.cross_entropy(logits.float(), targets, reduction="sum"))
        tokens += targets.numel()
    model.train(was_training)
    return LossReport(total / tokens, correct / tokens, tokens, bytes_per_token(rows))


def _batches(rows: Rows, batch_size: int, max_batches: int) -> Iterator[np.ndarray]:
    indices = np.arange(len(rows))
    if 0 < max_batches * batch_size < len(rows):
        count = max_batches * batch_size
        indices = np.arange(count) * len(rows) // count
    for start in range(0, len(indices), batch_size):
        yield rows.read(indices[start : start + batch_size])


def unigram_loss(train: Sequence[Rows], validation: Rows) -> float:
    """Loss in nats of a model that knows only how often each token occurs in the training text.

    p(token) = (count + 1) / (N + V): add-one smoothing keeps unseen tokens finite.
    """
    counts = sum(np.asarray(rows.manifest["unigram"], dtype=np.float64) for rows in train)
    counts = np.asarray(counts) + 1.0
    log_probs = np.log(counts / counts.sum())
    total, tokens = 0.0, 0
    for batch in _batches(validation, 1024, -1):
        total -= float(log_probs[batch[:, 1:]].sum())
        tokens += batch[:, 1:].size
    return total / tokens
