"""A trained model and its tokenizer from a run folder, ready to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from photon.data.prepare.encode import Encoder
from photon.machine.device import choose_device
from photon.model.build import LanguageModel, model_with
from photon.model.generate import generate
from photon.run.saved_model import load_saved_model


@dataclass(frozen=True, slots=True)
class Writer:
    """A model, and the tokenizer as it was used in training."""

    model: LanguageModel
    encoder: Encoder


def load_language_model(path: Path, client: int | None = None) -> Writer:
    """Load a checkpoint.

    Args:
        path: a run folder (its newest checkpoint) or a checkpoint's manifest.
        client: whose model, in a run with personalised layers.

    Raises:
        ConfigError: such a run without a client, or a client without such a run.
        CheckpointError: nothing of that kind is there.
        CorruptCheckpoint: the bytes are not what was written.
    """
    saved = load_saved_model(path).of(client)
    device = choose_device(saved.config.machine.device)
    model = model_with(saved.config.inner, saved.params, device).eval()
    return Writer(model, saved.encoder)


def continue_text(
    writer: Writer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the continuation piece by piece; an empty prompt starts a new document.

    A piece is held back while it ends in the middle of a character, and given as it is if that is
    the end. The prompt is decoded with the new tokens, since some tokenizers drop the space before
    the first word of what they decode.
    """
    encoder, tokenizer = writer.encoder, writer.encoder.tokenizer
    prompt_ids = encoder.opening(prompt) or [encoder.end]
    tokens = list(prompt_ids)
    text = shown = tokenizer.decode(tokens)
    for token in generate(
        writer.model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop=encoder.end,
    ):
        tokens.append(token)
        text = tokenizer.decode(tokens)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    if text != shown:
        yield text[len(shown) :]
