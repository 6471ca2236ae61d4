"""Log-likelihood of answers under a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from photon.evaluation.loss import ALL, DoneCallback, Share
from photon.evaluation.packing import PackedBatch, batches, collate, pack_groups
from photon.evaluation.requests import ScoredText
from photon.model.build import LanguageModel
from photon.model.precision import autocast

LOGITS_BYTES = 1 << 27
"""Float32 logits that are made at once."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How requests go through a model.

    Attributes:
        max_tokens: of one forward pass, padding included; a longer row goes alone.
        precision: of the forward pass; likelihoods are computed in fp32.
        share: splits the batches over processes.
    """

    max_tokens: int = 512
    precision: str = "fp32"
    share: Share = ALL
    progress: DoneCallback = lambda done: None


DEFAULT = Passes()


def tokens_of_a_pass(wanted: int | str, device: torch.device) -> int:
    """Tokens of a forward pass; `auto`: what fits a CPU's caches, or keeps a GPU busy."""
    if isinstance(wanted, int):
        return wanted
    return 512 if device.type == "cpu" else 16384


class Likelihood(NamedTuple):
    """Log-likelihood of one answer, negated, and how much of it the model would have said.

    Attributes:
        nll: negative log-likelihood of the whole answer, in nats.
        num_tokens: of the answer.
        num_hits: how many of them were the likeliest after those before.
    """

    nll: float
    num_tokens: int
    num_hits: int

    @property
    def is_greedy(self) -> bool:
        """Greedy decoding would give the answer: every token was the likeliest."""
        return self.num_hits == self.num_tokens

    @property
    def mean(self) -> float:
        """Per token."""
        return self.nll / self.num_tokens


@torch.no_grad()
def likelihoods(
    model: LanguageModel, groups: Sequence[Sequence[ScoredText]], passes: Passes = DEFAULT
) -> list[list[Likelihood]]:
    """Score all requests of all groups.

    Requests of a group that are the same are computed once, so that they tie exactly.
    """
    unique = [list(dict.fromkeys(group)) for group in groups]
    device = next(model.parameters()).device
    max_tokens, share = passes.max_tokens, passes.share
    if not model.takes_layout:  # it makes the logits of every token
        max_tokens = min(max_tokens, 8 * LOGITS_BYTES // (4 * model.vocab_size))
    parts = batches(pack_groups(unique, share=model.takes_layout), max_tokens)
    sums = torch.zeros(2, sum(map(len, unique)), dtype=torch.float64, device=device)
    done, total = 0, sum(len(row.tokens) for part in parts for row in part)
    was_training = model.training
    model.eval()
    for part in parts[share.rank :: share.size]:
        batch = collate(part, device)
        with autocast(passes.precision, device):
            _add(model, batch, sums)
        done += batch.size * share.size
        passes.progress(min(1.0, done / total))
    model.train(was_training)
    return _spread(groups, unique, share.add(sums))


def _add(model: LanguageModel, batch: PackedBatch, sums: Tensor) -> None:
    """Add the negative log-likelihoods and the hits of a batch to the sums, [2, requests]."""
    if batch.layout is not None:
        features = model.features(batch.tokens, layout=batch.layout)  # type: ignore[call-arg]
    else:
        features = model.features(batch.tokens)
    picked = features.flatten(0, 1)[batch.columns]
    count = max(1, LOGITS_BYTES // (4 * model.vocab_size))
    for at in range(0, len(picked), count):
        targets, numbers = batch.targets[at : at + count], batch.numbers[at : at + count]
        logits = model.project(picked[at : at + count]).float()
        right = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
        nll = logits.logsumexp(-1) - right
        hits = logits.argmax(-1) == targets
        sums[0].index_add_(0, numbers, nll.double())
        sums[1].index_add_(0, numbers, hits.double())


def _spread(
    groups: Sequence[Sequence[ScoredText]], unique: Sequence[Sequence[ScoredText]], sums: Tensor
) -> list[list[Likelihood]]:
    values = iter(sums.T.tolist())
    scored = []
    for group, different in zip(groups, unique, strict=True):
        of = {
            request: Likelihood(nll, request.num_answer, int(hits))
            for request, (nll, hits) in zip(different, values, strict=False)
        }
        scored.append([of[request] for request in group])
    return scored
