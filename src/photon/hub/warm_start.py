"""Where a run's first parameters come from, if not from its seed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.core.tree import Tree
from photon.data.tokenizer import load_tokenizer
from photon.errors import CheckpointError, MismatchedCheckpoint
from photon.hub.hf_folder import is_hugging_face_folder, read_fields, read_model
from photon.hub.pretrained import pretrained_parameters
from photon.model.build import empty_model
from photon.model.causal_lm import read_config
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.own_layers import NO_ONE
from photon.run.run_folder import read_run
from photon.run.saved_model import resolve_checkpoint


@dataclass(frozen=True, slots=True)
class WarmStart:
    """Where a run's first parameters come from, if not from its seed.

    Attributes:
        source: a run, a checkpoint, or a folder of `transformers`; None: the seed.
        named: whether the user has named it, not the model's own configuration.
        embedding: where the token embedding comes from, if from another place.
        resized: the vocabulary may differ.
    """

    inner: Inner
    source: Path | None
    named: bool
    embedding: Path | None
    resized: bool

    def parameters(self, like: Tree) -> dict[str, Tensor] | None:
        """The parameters that a new run starts from; None if the seed gives them.

        Args:
            like: parameters of its model.

        Raises:
            CheckpointError: nothing to start from at the named place.
            MismatchedCheckpoint: another architecture; the message names the place and what
                differs.
        """
        params = self._whole(like)
        if self.embedding is None:
            return params
        name = token_embedding(self.inner)
        found = self._parameters_at(self.embedding).get(name)
        if found is None:
            raise MismatchedCheckpoint(f"wte_parameters_path={self.embedding}: no {name}")
        merged = {**(params or like), name: fit_vocabulary(found, like[name])}
        checkpoint.require_same_model({name: merged[name]}, {name: like[name]}, self.embedding)
        return merged

    def check(self) -> None:
        """Refuse a start from another architecture before anything is written or read in full.

        Raises:
            CheckpointError, MismatchedCheckpoint: as `parameters`.
        """
        if self.source is None or not self.named:
            return  # the configuration itself comes from the folder that hf_causal_lm names
        there = _model_at(self.source, self.inner.model)
        require_same_architecture(self.source, there, self.inner.model, resized=self.resized)

    def tokenizer_warning(self, ours: Path) -> str | None:
        """What to tell the user if the data's tokenizer is another than the start's.

        Args:
            ours: the tokenizer.json of the data.
        """
        if self.source is None:
            return None
        folder = resolve_checkpoint(self.source)[0] if _is_run(self.source) else self.source
        theirs = folder / "tokenizer.json"
        if not theirs.exists() or _vocabulary(theirs) == _vocabulary(ours):
            return None
        return f"{ours.parent} has another tokenizer than {folder}: its token ids mean other text"

    def layers_warning(self) -> str | None:
        """What to tell the user of a start from a run whose clients keep layers of their own."""
        if self.source is None or not _is_run(self.source):
            return None
        theirs, facts = read_run(resolve_checkpoint(self.source)[0])
        if facts["kind"] != FEDERATED or not theirs.federation.personal_layers:
            return None
        return f"{self.source}: {NO_ONE}; these parameters begin as they were before that run"

    def _whole(self, like: Tree) -> dict[str, Tensor] | None:
        if self.source is None:
            return None
        self.check()
        params = self._parameters_at(self.source)
        if self.resized:
            tables = vocabulary_tables(self.inner)
            params = {
                name: fit_vocabulary(value, like[name]) if name in tables else value
                for name, value in params.items()
            }
        checkpoint.require_same_model(params, like, self.source)
        return params

    def _parameters_at(self, path: Path) -> dict[str, Tensor]:
        """The parameters of a run, a checkpoint, or a folder of `transformers`."""
        model = self.inner.model
        if model.name == "hf_causal_lm" and not _is_run(path):
            model = _model_at(path, model) if self.resized else model
            return pretrained_parameters(model, str(path))
        if is_hugging_face_folder(path):
            return read_model(path)[1]
        return checkpoint.load_model(resolve_checkpoint(path)[1])


def warm_start(
    inner: Inner, starts: tuple[str | None, str | None], federation: Federation
) -> WarmStart:
    """That of a configuration's keys; a model of `transformers` may name the place itself.

    Args:
        starts: places of the parameters, and of the token embedding.
    """
    model, (given, embedding) = inner.model, starts
    own = model.hf_folder if model.name == "hf_causal_lm" and model.hf_weights else None
    source, table = (None if p is None else Path(p) for p in (given or own, embedding))
    return WarmStart(inner, source, given is not None, table, federation.vocabulary is not None)


def token_embedding(inner: Inner) -> str:
    """Name of the token embedding's parameter."""
    model = empty_model(inner)
    names = {id(p): name for name, p in model.named_parameters()}
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return names[id(max(tables, key=lambda m: m.num_embeddings).weight)]


def vocabulary_tables(inner: Inner) -> set[str]:
    """Names of the parameters with a row for each token."""
    model, size = empty_model(inner), inner.model.vocab_size
    return {name for name, p in model.named_parameters() if p.dim() == 2 and len(p) == size}


def fit_vocabulary(value: Tensor, like: Tensor) -> Tensor:
    """A table [V, d] with the rows of another vocabulary where it has them, as they are in `like`
    where it has none; anything else is left alone.
    """
    if value.dim() != 2 or like.dim() != 2 or value.shape[1] != like.shape[1]:
        return value
    if value.shape[0] == like.shape[0]:
        return value
    fitted, rows = like.clone(), min(len(value), len(like))
    fitted[:rows] = value[:rows]
    return fitted


def require_same_architecture(
    path: Path, there: ModelConfig, ours: ModelConfig, *, resized: bool = False
) -> None:
    """Refuse a model that computes something else with parameters of these names and shapes.

    Args:
        resized: the vocabulary may differ.

    Raises:
        MismatchedCheckpoint: naming the first key that differs, and what to give to have theirs.
    """
    theirs, wanted = _architecture(there), _architecture(ours)
    if resized:
        del theirs["vocab_size"], wanted["vocab_size"]
    for key, value in wanted.items():
        if theirs.get(key) != value:
            raise MismatchedCheckpoint(
                f"{path}: holds another architecture: llm_config.model.{key} is "
                f"{theirs.get(key)!r} there, {value!r} here{_keys_of(theirs, wanted)}"
            )


def _keys_of(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The overrides that make a model of ours one of theirs; nothing where no keys can."""
    if "hf_causal_lm" in (theirs["name"], ours["name"]):
        return ""
    other = {key: value for key, value in theirs.items() if ours.get(key) != value}
    given = (f"llm_config.model.{key}={json.dumps(value)}" for key, value in other.items())
    return "; to have its own: " + " ".join(given).replace('"', "")


def _vocabulary(path: Path) -> dict[str, int]:
    return load_tokenizer(path).get_vocab()


def _is_run(path: Path) -> bool:
    return path.exists() and not is_hugging_face_folder(path)


def _model_at(path: Path, ours: ModelConfig) -> ModelConfig:
    """The model that lies at a path, as a configuration."""
    if not is_hugging_face_folder(path):
        try:
            run = resolve_checkpoint(path)[0]
        except CheckpointError as error:
            raise CheckpointError(
                f"pretrained_model_path={error}, or Hugging Face folder"
            ) from error
        return read_run(run)[0].inner.model
    if ours.name != "hf_causal_lm":
        return ModelConfig.model_validate(read_fields(path))
    there = {"hf_folder": str(path), "hf_config": {}, "max_positions": None}
    return read_config(ours.but(**there))


def _architecture(model: ModelConfig) -> dict[str, Any]:
    """What the parameters' shapes do not tell, or tell less clearly: by key of the model."""
    attention = model.attention
    shared = {
        "name": model.name,
        "d_model": model.d_model,
        "n_heads": model.n_heads,
        "n_layers": model.n_layers,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tied,
    }
    if model.name == "hf_causal_lm":
        return {**shared, "hf_config.model_type": model.hf_config.get("model_type")}
    shared["norm_eps"] = model.norm_eps
    if model.is_mpt:
        return {
            **shared,
            "expansion_ratio": model.expansion_ratio,
            "ffn_act": model.ffn_act,
            "no_bias": model.no_bias,
            "attn_config.alibi": attention.alibi,
            "attn_config.alibi_bias_max": attention.alibi_bias_max if attention.alibi else None,
        }
    return {
        **shared,
        "ffn_hidden_size": model.ffn_hidden_size,
        "attn_config.kv_n_heads": model.kv_heads,
        "attn_config.qk_norm": attention.qk_norm,
        "attn_config.rope_theta": attention.rope_theta,
    }
