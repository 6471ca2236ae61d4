"""Greedy continuations of many prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from photon.evaluation.likelihood import Passes
from photon.evaluation.packing import by_length
from photon.model.build import LanguageModel
from photon.model.decoder import Decoder
from photon.model.generate import generate
from photon.model.layout import Layout
from photon.model.precision import autocast

LOOK_EVERY = 8
"""Tokens between two looks at whether a text has reached a string at which it ends."""

IsFinished = Callable[[list[int]], bool]


@torch.no_grad()
def continuations(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end: int,
    is_finished: IsFinished = lambda ids: False,
    passes: Passes,
) -> list[list[int]]:
    """The likeliest token again and again, until `end`.

    Args:
        prompts: each with `max_new_tokens` no longer than the model.
        is_finished: asked every `LOOK_EVERY` tokens whether what a text has by then is enough.
        passes: its `max_tokens` count prompts together with the tokens that they may get.

    Returns:
        New ids, without `end`.
    """
    share = passes.share
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    parts = by_length(range(len(prompts)), lengths.__getitem__, passes.max_tokens)
    device = next(model.parameters()).device
    written = torch.full((len(prompts), max_new_tokens), -1, dtype=torch.float64, device=device)
    was_training = model.training
    model.eval()
    for number, part in enumerate(parts):
        if number % share.size == share.rank:
            texts = [list(prompts[index]) for index in part]
            with autocast(passes.precision, device):
                made = _together(model, texts, max_new_tokens, end, is_finished)
            for index, ids in zip(part, made, strict=True):
                written[index, : len(ids)] = torch.tensor(ids, dtype=torch.float64)
        passes.progress((number + 1) / len(parts))
    model.train(was_training)
    if share.size > 1:  # every row was written by one process; the others hold -1
        written = share.add(written) + (share.size - 1)
    return [[int(i) for i in row if i >= 0] for row in written.tolist()]


def _together(
    model: LanguageModel, texts: list[list[int]], limit: int, end: int, is_finished: IsFinished
) -> list[list[int]]:
    if not isinstance(model, Decoder):
        return [_alone(model, text, limit, end, is_finished) for text in texts]
    return _Writing(model, texts, end, is_finished).run(limit)


def _alone(
    model: LanguageModel, text: list[int], limit: int, end: int, is_finished: IsFinished
) -> list[int]:
    made: list[int] = []
    for token in generate(model, text, max_new_tokens=limit, temperature=0, stop=end):
        made.append(token)
        if len(made) % LOOK_EVERY == 0 and is_finished(made):
            break
    return made


class _Writing:
    """Prompts that go on side by side: padded at their beginning, so that they end together."""

    def __init__(
        self, model: Decoder, texts: list[list[int]], end: int, is_finished: IsFinished
    ) -> None:
        self.model, self.end, self.is_finished = model, end, is_finished
        self.device = model.output_weight.device
        self.width = max(map(len, texts))
        self.tokens = torch.zeros(len(texts), self.width, dtype=torch.long)
        for row, text in enumerate(texts):
            self.tokens[row, self.width - len(text) :] = torch.tensor(text)
        self.padding = torch.tensor([self.width - len(text) for text in texts])
        self.made: list[list[int]] = [[] for _ in texts]
        self.open = [True] * len(texts)

    def run(self, limit: int) -> list[list[int]]:
        cache = self.model.new_cache()
        tokens = self.tokens
        for step in range(limit):
            past = cache.length
            layout = self._layout(past, tokens.shape[1])
            features = self.model.features(tokens.to(self.device), cache, layout)[:, -1]
            chosen = self.model.project(features).argmax(-1).cpu()
            self._take(chosen.tolist(), step + 1)
            if not any(self.open):
                break
            tokens = chosen.unsqueeze(1)
        return self.made

    def _layout(self, past: int, count: int) -> Layout:
        """A token sees itself and what came before it; padding sees itself."""
        columns = torch.arange(past + count)
        own = columns[past:]
        real = columns >= self.padding.unsqueeze(1)
        earlier = columns <= own.unsqueeze(1)
        visible = (real.unsqueeze(1) & earlier) | (columns == own.unsqueeze(1))
        positions = (columns - self.padding.unsqueeze(1)).clamp(min=0)
        parts: list[Tensor] = [positions[:, past:], positions, visible]
        return Layout(*(part.to(self.device) for part in parts))

    def _take(self, chosen: list[int], step: int) -> None:
        for row, token in enumerate(chosen):
            if not self.open[row]:
                continue
            if token == self.end:
                self.open[row] = False
                continue
            self.made[row].append(token)
            if step % LOOK_EVERY == 0 and self.is_finished(self.made[row]):
                self.open[row] = False
