"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from photon.core.seeds import derive_seed
from photon.model.build import LanguageModel


@torch.no_grad()
def generate(
    model: LanguageModel,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield new token ids as they are made.

    Args:
        prompt: token ids, at least one; only the last `max_seq_len` are seen.
        temperature: 0 takes the likeliest token.
        seed: address of the draws.
        stop: a token that ends the text and is not yielded.
    """
    tokens = list(prompt)
    cache = model.new_cache()
    generator = torch.Generator().manual_seed(derive_seed(seed, "generate"))
    for _ in range(max_new_tokens):
        logits = _next_logits(model, tokens, cache)
        if temperature == 0:
            token = int(logits.argmax())
        else:
            beyond = (logits - logits.max()).double()  # of the likeliest 0, however cold it is
            probabilities = torch.softmax((beyond / temperature).float(), dim=-1)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == stop:
            return
        tokens.append(token)
        yield token


def _next_logits(model: LanguageModel, tokens: list[int], cache) -> Tensor:
    """Logits [V] after `tokens`, on the CPU.

    Once the window slides, every token has a new position, so nothing cached is valid any more.
    """
    device = next(model.parameters()).device
    if cache is None or len(tokens) > model.max_seq_len:
        window = torch.tensor([tokens[-model.max_seq_len :]], device=device)
        return model(window)[0, -1].float().cpu()
    unseen = torch.tensor([tokens[cache.length :]], device=device)
    return model(unseen, cache=cache)[0, -1].float().cpu()
