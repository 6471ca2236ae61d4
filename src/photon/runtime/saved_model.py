"""A saved model, wherever it lies in a run: its configuration, parameters and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from photon.config.schema import Config
from photon.data.encode import Encoder
from photon.errors import CheckpointError
from photon.model.build import empty_model, parameters_of
from photon.runtime import checkpoint
from photon.runtime.run_folder import read_run
from photon.runtime.run_tokens import encoder_of_run


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a checkpoint speaks for.

    Attributes:
        run: its run folder.
        manifest: its file.
        params: mapped from the file.
        encoder: its tokenizer, used as in training.
    """

    run: Path
    manifest: Path
    config: Config
    params: dict[str, Tensor]
    encoder: Encoder


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
    return SavedModel(run, manifest, config, params, encoder_of_run(run, facts))
