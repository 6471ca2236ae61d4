"""A model that is to be evaluated: of a run, or of a folder of `transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from photon.config.between.resume import apply_evaluation_overrides
from photon.config.evaluation import Scoring
from photon.config.model import ModelConfig
from photon.config.overrides import keys_given
from photon.config.schema import Config, Machine, config_of_model
from photon.container.container import digest
from photon.data.prepare.encode import Encoder
from photon.data.tokenizer import vocab_size
from photon.errors import CheckpointError, ConfigError, MismatchedCheckpoint
from photon.evaluation.likelihood import tokens_of_a_pass
from photon.hub.hf_folder import (
    is_hugging_face_folder,
    read_encoder,
    read_fields,
    read_model,
)
from photon.hub.pretrained import pretrained_parameters
from photon.model.build import LanguageModel, model_with
from photon.model.causal_lm import read_config
from photon.run import artifact
from photon.run.own_layers import NO_ONE, OwnLayers
from photon.run.saved_model import load_saved_model, resolve_checkpoint


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model, and what names it.

    Attributes:
        name: short, for tables.
        facts: what the checkpoint is: its digest, and round, step and tokens if it is a run's.
        tokenizer_digest: of the vocabulary and its rules.
        config: of the run, or of the model alone, with the evaluation's keys.
        results: folder for what is found out about it.
        own: layers that the clients keep, if the model lacks them.
    """

    name: str
    facts: dict[str, Any]
    tokenizer_digest: str
    config: Config
    model: LanguageModel
    encoder: Encoder
    results: Path
    own: OwnLayers | None = None

    def require_one_model(self) -> None:
        """Refuse to score tasks with layers that nobody trains.

        Raises:
            ConfigError: saying what to name.
        """
        if self.own is not None:
            raise ConfigError(
                f"{self.name}: {NO_ONE}; score tasks with --client N, or losses alone with "
                "icl_tasks_config=empty"
            )

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of one forward pass."""
        device = next(self.model.parameters()).device
        return tokens_of_a_pass(self.config.scoring.max_batch_tokens, device)


def require_model(path: Path) -> None:
    """Refuse a path at which no model is, before any work.

    Raises:
        CheckpointError: with what would be one.
    """
    if is_hugging_face_folder(path):
        return
    try:
        resolve_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, nor a Hugging Face folder with a config.json") from error


def machine_of(overrides: Sequence[str]) -> Machine:
    """What an evaluation runs on: all that is here, but for its own `photon.*` keys.

    Raises:
        ConfigError: a malformed override, or a value that a key does not take.
    """
    keys = zip(keys_given(overrides), overrides, strict=True)
    own = [text for key, text in keys if key.startswith("photon.")]
    return apply_evaluation_overrides(Config(), own).machine


def open_candidate(
    path: Path, overrides: Sequence[str], device: torch.device, client: int | None = None
) -> Candidate:
    """Load a model for evaluation.

    Args:
        path: a run folder (its newest checkpoint), a checkpoint's manifest, or a folder of
            `transformers`.
        client: whose model, in a run with personalised layers; None: that of the server, and `own`.

    Raises:
        CheckpointError: no model there.
        MismatchedCheckpoint: its tokenizer has tokens that the model does not know.
        ConfigError: an override that does not belong to an evaluation.
    """
    require_model(path)
    found = _of_folder(path, client) if is_hugging_face_folder(path) else _of_run(path, client)
    _require_fit(path, found.encoder, found.config.inner.model.vocab_size)
    facts = {**found.facts, "digest": digest(found.params)}
    tokenizer = hashlib.sha256(found.encoder.tokenizer.to_str().encode()).hexdigest()[:16]
    config = apply_evaluation_overrides(found.config.but(**_plainly(device)), overrides)
    home, place = found.home, config.composites.destination_dir
    if home is None or place:
        shared = Path(place or "evaluation") / found.name.replace("/", "-")
        home = _beside_others(shared, facts["digest"], tokenizer)
    return Candidate(
        name=found.name,
        facts=facts,
        tokenizer_digest=tokenizer,
        config=config,
        model=model_with(config.inner, found.params, device).eval(),
        encoder=found.encoder,
        results=home,
        own=found.own,
    )


class _Found(NamedTuple):
    """What is read at a path.

    Attributes:
        home: folder for what is found out about it; None: it has none of its own.
    """

    config: Config
    params: dict[str, Tensor]
    encoder: Encoder
    name: str
    facts: dict[str, Any]
    home: Path | None = None
    own: OwnLayers | None = None


def _of_run(path: Path, client: int | None) -> _Found:
    saved = load_saved_model(path)
    saved = saved if client is None else saved.of(client)
    name = f"{saved.run.resolve().name}/{saved.manifest.stem}"
    name += "" if client is None else f"/client_{client}"
    facts = _run_facts(saved.manifest)
    return _Found(saved.config, saved.params, saved.encoder, name, facts, saved.scores, saved.own)


def _of_folder(path: Path, client: int | None) -> _Found:
    """By our own decoder where it computes the same, else by `transformers`."""
    if client is not None:
        raise ConfigError(f"--client {client}: {path} is no run; leave the option out")
    encoder = read_encoder(path)
    try:
        read_fields(path)
    except CheckpointError:
        model = read_config(ModelConfig().but(name="hf_causal_lm", hf_folder=str(path)))
        params = pretrained_parameters(model, str(path))
    else:
        fields, params = read_model(path)
        model = ModelConfig.model_validate(fields)
    name = path.resolve().name
    return _Found(
        config_of_model(name, model), params, encoder, name, {"kind": "hugging face folder"}
    )


def _run_facts(manifest: Path) -> dict[str, Any]:
    facts = artifact.read(manifest).facts
    state = facts["state"]
    shown = {key: state[key] for key in ("round", "step", "num_tokens") if key in state}
    return {"kind": facts["kind"], **shown, "checkpoint": manifest.stem}


def _require_fit(path: Path, encoder: Encoder, known: int) -> None:
    tokens = vocab_size(encoder.tokenizer)
    if tokens > known:
        raise MismatchedCheckpoint(
            f"{path}: its tokenizer has {tokens} tokens, its model knows {known}; put the "
            "tokenizer.json there that the model was trained with"
        )


def _beside_others(place: Path, model: str, tokenizer: str) -> Path:
    """A folder for results; another one if those of another model of the same name lie there."""
    for name in ("results.json", "lm_eval.json"):
        try:
            saved = json.loads((place / name).read_text(encoding="utf-8"))
            theirs = (saved["checkpoint"]["digest"], saved.get("tokenizer", tokenizer))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # nobody's results
        if theirs != (model, tokenizer):
            own = hashlib.sha256(f"{model} {tokenizer}".encode()).hexdigest()[:8]
            return place.with_name(f"{place.name}-{own}")
    return place


def _plainly(device: torch.device) -> dict[str, Any]:
    """What the run was trained with does not bind its evaluation: all rows, in full precision."""
    precision = {"precision": "fp32"} if device.type == "cpu" else {}
    inner = {"validation_batches": -1, **precision}
    return {"scoring": Scoring(), "inner": inner}
