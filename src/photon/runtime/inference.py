"""A trained model and its tokenizer from a run folder, ready to write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from photon.data.tokenizer import load_tokenizer, separator_id
from photon.errors import CheckpointError
from photon.model.build import LanguageModel, build_model, load_parameters, parameters_of
from photon.model.generate import generate
from photon.runtime import checkpoint
from photon.runtime.device import choose_device
from photon.runtime.run_folder import read_run


@dataclass(frozen=True, slots=True)
class Writer:
    model: LanguageModel
    tokenizer: Tokenizer


def load_language_model(path: Path) -> Writer:
    """Load a checkpoint.

    Args:
        path: a run folder (its newest checkpoint) or a checkpoint's manifest.

    Raises:
        CheckpointError: nothing of that kind is there.
        CorruptCheckpoint: the bytes are not what was written.
    """
    if path.is_dir():
        run, manifest = path, checkpoint.newest_checkpoint(path / "checkpoints")
    elif path.is_file() and path.parent.name == "checkpoints":
        run, manifest = path.parent.parent, path
    else:
        raise CheckpointError(
            f"{path}: no such run folder or checkpoint (RUN or RUN/checkpoints/NAME.json)"
        )
    config, _ = read_run(run)
    model = build_model(config.llm_config, config.seed)
    params = checkpoint.load_parameters(manifest)
    checkpoint.require_same_model(params, parameters_of(model), manifest)
    load_parameters(model, params)
    model.to(choose_device(config.photon.device)).eval()
    return Writer(model, load_tokenizer(run / "tokenizer.json"))


def continue_text(
    writer: Writer,
    prompt: str,
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    seed: int = 0,
) -> Iterator[str]:
    """Yield the continuation piece by piece; an empty prompt starts a new document.

    A piece is held back while it ends in the middle of a character.
    """
    tokenizer = writer.tokenizer
    end = separator_id(tokenizer)
    prompt_ids = tokenizer.encode(prompt).ids or [end]
    new: list[int] = []
    shown = ""
    for token in generate(
        writer.model,
        prompt_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        stop=end,
    ):
        new.append(token)
        text = tokenizer.decode(new)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
