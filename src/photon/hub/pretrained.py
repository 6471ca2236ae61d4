"""Weights of `hf_causal_lm` models: `transformers` reads and writes its own folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.core.tree import Tree, all_finite
from photon.data.hub_access import first_line
from photon.errors import CheckpointError, MismatchedCheckpoint
from photon.model.build import model_with
from photon.model.causal_lm import HuggingFaceLM, hf_config

CONVERT = (
    "its weights must be safetensors; pickled ones (*.bin) are never opened: load the folder with "
    "transformers' from_pretrained where you trust it, and save_pretrained to a new one"
)


def pretrained_parameters(model: ModelConfig, name: str) -> dict[str, Tensor]:
    """The weights of a folder of `transformers`, under the names of `HuggingFaceLM`.

    Args:
        model: resolved; its architecture, not the folder's config.json, is what is built.
        name: the folder, or a name if the hub is in reach.

    Raises:
        CheckpointError: no safetensors there.
        MismatchedCheckpoint: weights of another architecture.
    """
    try:
        loaded, found = _load(model, name)
    except SafetensorError as error:
        raise CheckpointError(
            f"{name}: its safetensors are damaged or cut off ({first_line(error)}); get the folder "
            "anew"
        ) from error
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{name}: cannot read the weights ({reason}); {CONVERT}") from error
    except RuntimeError as error:
        raise MismatchedCheckpoint(
            f"{name}: its weights are of another architecture than {model.hf_config['model_type']} "
            "with these sizes"
        ) from error
    _require_all(found, name)
    found = {f"model.{key}": value.detach() for key, value in loaded.named_parameters()}
    return require_finite(found, name)


def _load(model: ModelConfig, name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model of a folder, and which weights were missing or too many."""
    import transformers

    read: Any = transformers.AutoModelForCausalLM.from_pretrained
    with quiet():
        return read(
            name,
            config=hf_config(model),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )


def _require_all(found: dict[str, Any], name: str) -> None:
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        for key in sorted(map(str, found.get(kind, ()))):
            raise MismatchedCheckpoint(
                f"{name}: is of another model: {key} is among the {kind.replace('_', ' ')}"
            )


def require_finite(params: dict[str, Tensor], where: object) -> dict[str, Tensor]:
    """Refuse weights from elsewhere that compute nothing.

    Raises:
        CheckpointError: a value is infinite or no number; the message names its tensor.
    """
    for name, value in params.items():
        if not all_finite({name: value}):
            count = int((~value.isfinite()).sum())
            raise CheckpointError(
                f"{where}: {name}: {count:,} of {value.numel():,} values are infinite or no "
                "number; the model computes nothing, get a sound copy of it"
            )
    return params


def save_pretrained(inner: Inner, params: Tree, folder: Path) -> None:
    """Write config.json and safetensors as `transformers` names them itself."""
    model = model_with(inner, params)
    assert isinstance(model, HuggingFaceLM)
    with quiet():
        model.model.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        _follow_umask(path)


def _follow_umask(path: Path) -> None:
    """Give a file, which safetensors makes private, the mode of a new one; asking for the umask
    itself would change it for all.
    """
    new = path.with_name(path.name + ".mode")
    new.touch()
    path.chmod(new.stat().st_mode & 0o777)
    new.unlink()


@contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor remarks from `transformers`; what is wrong is raised."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
