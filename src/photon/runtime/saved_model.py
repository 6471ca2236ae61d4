"""A saved model, wherever it lies in a run: its configuration, parameters and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from photon.config.schema import Config
from photon.data.tokenizer import load_tokenizer, separator_id
from photon.errors import CheckpointError
from photon.model.build import empty_model, parameters_of
from photon.runtime import checkpoint
from photon.runtime.run_folder import read_run


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a checkpoint speaks for.

    Attributes:
        run: its run folder.
        manifest: its file.
        params: mapped from the file.
        end: id of the token that ends a text.
    """

    run: Path
    manifest: Path
    config: Config
    params: dict[str, Tensor]
    tokenizer: Tokenizer
    end: int


def resolve_checkpoint(path: Path) -> tuple[Path, Path]:
    """Run folder and manifest of what a user named.

    Args:
        path: a run folder (its newest checkpoint) or a checkpoint's manifest.

    Raises:
        CheckpointError: nothing of that kind is there.
    """
    if (path / "run.json").exists() or (path / "checkpoints").is_dir():
        return path, checkpoint.newest_checkpoint(path / "checkpoints")
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent, path
    raise CheckpointError(
        f"{path}: no such run folder or checkpoint (RUN or RUN/checkpoints/NAME.json)"
    )


def load_saved_model(path: Path) -> SavedModel:
    """Load what `resolve_checkpoint` finds.

    Raises:
        CheckpointError: nothing of that kind is there.
        CorruptCheckpoint: the bytes are not what was written.
    """
    run, manifest = resolve_checkpoint(path)
    config, facts = read_run(run)
    params = checkpoint.load_parameters(manifest)
    like = parameters_of(empty_model(config.llm_config))
    checkpoint.require_same_model(params, like, manifest)
    tokenizer = load_tokenizer(run / "tokenizer.json")
    return SavedModel(run, manifest, config, params, tokenizer, _end(tokenizer, facts))


def _end(tokenizer: Tokenizer, facts: dict[str, Any]) -> int:
    """An imported model brings its own token between documents."""
    return facts["end"] if "end" in facts else separator_id(tokenizer)
