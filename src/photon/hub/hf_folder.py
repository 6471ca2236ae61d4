"""Folders of `transformers`: written from our checkpoints, and read into run folders."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

import photon
from photon.config.model import ModelConfig
from photon.config.schema import config_of_model
from photon.container.container import digest, write_container
from photon.data.hub_access import first_line
from photon.data.manifest import write_json
from photon.data.prepare.encode import Encoder
from photon.data.tokenization import KEY, Tokenization, has_token, of_foreign
from photon.data.tokenizer import SEPARATOR, load_tokenizer, save_tokenizer, vocab_size
from photon.errors import CheckpointError, DataError, RunFolderError, StorageError
from photon.hub.model_card import model_card, privacy_of
from photon.hub.pretrained import CONVERT, quiet, require_finite, save_pretrained
from photon.hub.written import FILES, hashes, require_own
from photon.model.hf import export_model, import_model
from photon.model.hf_config import fields_of
from photon.run import checkpoint
from photon.run.kinds import IMPORTED
from photon.run.run_folder import RunFolder, holds_run
from photon.run.run_tokens import tokenization_facts
from photon.run.saved_model import SavedModel, load_saved_model
from photon.training.state import TrainState

MARKER = "photon.json"
"""What an exported folder comes from, and what was written; no folder without it is replaced."""


def export_folder(source: Path, out: Path, client: int | None = None) -> bool:
    """Write a checkpoint as a folder that `AutoModelForCausalLM.from_pretrained` loads.

    Args:
        source: a run folder or a checkpoint's manifest.
        out: appears whole or not at all; an earlier export there is replaced.
        client: whose model, in a run with personalised layers.

    Returns:
        Whether an earlier export was replaced.

    Raises:
        CheckpointError: no checkpoint there.
        ConfigError: `transformers` has no architecture that computes the same; personalised layers
            without a client.
        RunFolderError: `out` holds something that no export wrote, or that was changed since.
        StorageError: it cannot be written.
    """
    saved = load_saved_model(source).of(client)
    is_replaced = _is_export(out)
    with _appearing(out, replaces=is_replaced) as folder:
        _write_model(folder, saved)
        _write_tokenizer(folder, saved)
        (folder / "README.md").write_text(model_card(saved), encoding="utf-8")
        write_json(
            folder / MARKER,
            {
                "photon": photon.__version__,
                "run": saved.config.name,
                "checkpoint": saved.manifest.stem,
                **({} if saved.client is None else {"client": saved.client}),
                "digest": digest(saved.params),
                **({"privacy": privacy} if (privacy := privacy_of(saved)) else {}),
                KEY: saved.encoder.facts.as_json(),
                FILES: hashes(folder),
            },
        )
    return is_replaced


def import_folder(source: Path, out: Path) -> None:
    """Make a run folder of a folder of `transformers`.

    Args:
        source: holds config.json, model.safetensors (or its shards and their index), a tokenizer.
        out: a new folder; `generate`, `export` and `pretrained_model_path` take it like a run.

    Raises:
        CheckpointError: a file is missing, or our decoder cannot compute the same.
        DataError: no tokenizer.
        RunFolderError: `out` holds something, or the source is a run.
        StorageError: it cannot be written.
    """
    if holds_run(source):
        raise RunFolderError(
            f"{source}: is a run of Photon, not a folder of transformers: `photon generate`, "
            "`photon export` and pretrained_model_path take it as it is"
        )
    fields, params = read_model(source)
    encoder = read_encoder(source)
    if (tokens := vocab_size(encoder.tokenizer)) > fields["vocab_size"]:
        raise DataError(
            f"{source}: its tokenizer has {tokens} tokens, its model "
            f"vocab_size={fields['vocab_size']}"
        )
    config = config_of_model(source.resolve().name, ModelConfig.model_validate(fields))
    with _appearing(out) as folder:
        copy = folder.parent / "tokenizer.json"
        save_tokenizer(encoder.tokenizer, copy)
        facts = tokenization_facts(encoder.facts, copy)
        with RunFolder.create(folder, config.model_dump(mode="json"), IMPORTED, copy, facts) as run:
            checkpoint.save_train_state(run.checkpoints, "step_000000", TrainState(params=params))


def is_hugging_face_folder(path: Path) -> bool:
    return "model_type" in (_read_json(path / "config.json") or {})


def read_fields(source: Path) -> dict[str, Any]:
    """Keys of `llm_config.model` for a folder of `transformers`, without its weights.

    Raises:
        CheckpointError: no config.json, or not one that our decoder can compute.
    """
    config = _read_json(source / "config.json")
    if config is None:
        raise CheckpointError(f"{source}: no config.json of transformers here")
    try:
        return fields_of(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def read_model(source: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Keys of `llm_config.model` and parameters of a folder of `transformers`.

    Raises:
        CheckpointError: a file is missing, a value is not finite, or our decoder cannot compute
            the same.
    """
    read_fields(source)
    tensors = _read_tensors(source)
    try:
        fields, params = import_model(_read_json(source / "config.json") or {}, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    return fields, require_finite(params, source)


def _write_model(folder: Path, saved: SavedModel) -> None:
    inner = saved.config.inner
    if inner.model.name == "hf_causal_lm":
        save_pretrained(inner, saved.params, folder)
        config = _read_json(folder / "config.json") or {}
    else:
        config, tensors = export_model(inner, saved.params)
        write_container(folder / "model.safetensors", tensors, {})
    marks = saved.encoder.facts
    ends = {"bos_token_id": marks.start, "eos_token_id": marks.end}
    write_json(folder / "config.json", {**config, **ends})
    write_json(folder / "generation_config.json", ends)


def _write_tokenizer(folder: Path, saved: SavedModel) -> None:
    marks, tokenizer = saved.encoder.facts, saved.encoder.tokenizer
    save_tokenizer(saved.encoder.for_prompts(), folder / "tokenizer.json")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.id_to_token(marks.start),
            "eos_token": tokenizer.id_to_token(marks.end),
            "model_max_length": saved.config.inner.positions,
            "clean_up_tokenization_spaces": False,
        },
    )


def _is_export(out: Path) -> bool:
    """Whether an earlier export is there, to be replaced.

    Raises:
        RunFolderError: it holds more than was exported.
        StorageError: it cannot be read.
    """
    if not (out / MARKER).is_file():
        return False
    try:
        require_own(out, MARKER, _read_json(out / MARKER) or {})
    except OSError as error:
        raise StorageError(f"{out}: cannot read what is there ({error.strerror})") from error
    return True


@contextmanager
def _appearing(out: Path, replaces: bool = False) -> Iterator[Path]:
    """A folder that is filled beside its place and renamed.

    Args:
        replaces: what is there may be replaced.
    """
    out = out.resolve()
    old = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if old and not replaces and holds_run(out):
        raise RunFolderError(f"{out}: holds a run; name another folder")
    if old and not replaces:
        raise RunFolderError(f"{out}: is not empty; name another folder or remove this one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
            folder = Path(work) / "new"
            folder.mkdir()
            yield folder
            if old:
                os.rename(out, Path(work) / "old")
            os.rename(folder, out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{out}: cannot write ({reason})") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file.

    Raises:
        CheckpointError: it is unreadable.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: is no JSON object")
    return value


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, mapped from its one file or from its shards."""
    tensors: dict[str, Tensor] = {}
    for name in _files_of_tensors(folder):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            pickled = f"; {CONVERT}" if any(folder.glob("*.bin")) else ""
            raise CheckpointError(f"{folder}: no file {name!r} here{pickled}")
        try:
            tensors.update(load_file(path))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot read the tensors ({error})") from error
    return tensors


def _files_of_tensors(folder: Path) -> list[str]:
    """Names as the index gives them, which is not ours: they may be no files, or lie elsewhere."""
    path = folder / "model.safetensors.index.json"
    index = _read_json(path)
    if index is None or (folder / "model.safetensors").exists():
        return ["model.safetensors"]
    files = index.get("weight_map")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(
            f"{path}: its weight_map does not say which file has which tensor; get the folder anew"
        )
    return sorted({str(name) for name in files.values()})


def read_encoder(folder: Path) -> Encoder:
    """Its tokenizer as its model was trained with it: as we exported it, or as `transformers` does.

    Raises:
        DataError: no tokenizer, or nothing says where a text ends.
    """
    tokenizer = _read_tokenizer(folder)
    exported = _read_json(folder / MARKER) or {}
    if KEY in exported:
        facts = Tokenization.from_json(exported[KEY], folder).require_known(tokenizer, folder)
    else:
        facts = of_foreign(tokenizer, _end_of_text(folder, tokenizer))
    return Encoder(tokenizer, facts)


def _read_tokenizer(folder: Path) -> Tokenizer:
    """Its tokenizer.json, or what `transformers` makes of its other files.

    Raises:
        DataError: neither.
    """
    if (folder / "tokenizer.json").exists():
        return load_tokenizer(folder / "tokenizer.json")
    try:
        from transformers import AutoTokenizer

        with quiet():
            made = AutoTokenizer.from_pretrained(
                str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
            )
        return made.backend_tokenizer
    except Exception as error:  # whatever it lacks, the user needs the file
        raise DataError(
            f"{folder}: no tokenizer.json here, and transformers cannot make one "
            f"without running what lies there ({first_line(error)}); add the tokenizer.json that "
            "the model was trained with"
        ) from error


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> int:
    """Id of the token that ends a text: the tokenizer's, the model's, or ours.

    Raises:
        DataError: none of them names a token of the vocabulary.
    """
    token = (_read_json(folder / "tokenizer_config.json") or {}).get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    ids = (_read_json(folder / "config.json") or {}).get("eos_token_id")
    first = ids[0] if isinstance(ids, list) and ids else ids
    candidates = [
        tokenizer.token_to_id(token) if isinstance(token, str) else None,
        first if type(first) is int and has_token(tokenizer, first) else None,
        tokenizer.token_to_id(SEPARATOR),
    ]
    found = next((number for number in candidates if number is not None), None)
    if found is None:
        raise DataError(f"{folder}: no eos_token in tokenizer_config.json, so texts have no end")
    return found
