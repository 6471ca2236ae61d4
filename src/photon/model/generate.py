"""Text from a model, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from photon.core.seeds import derive_seed
from photon.model.decoder import Decoder


@torch.no_grad()
def generate(
    model: Decoder,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
    stop: int | None = None,
) -> Iterator[int]:
    """Yield new token ids.

    Args:
        prompt: token ids, at least one; only the last `max_seq_len` are seen.
        temperature: 0 takes the likeliest token.
        seed: address of the draws.
        stop: a token that ends the text and is not yielded.
    """
    device = model.embedding.weight.device
    tokens = list(prompt)
    generator = torch.Generator().manual_seed(derive_seed(seed, "generate"))
    for _ in range(max_new_tokens):
        window = torch.tensor([tokens[-model.max_seq_len :]], device=device)
        logits = model(window)[0, -1].float().cpu()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            probabilities = torch.softmax(logits / temperature, dim=-1)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
        if token == stop:
            return
        tokens.append(token)
        yield token
