"""What a server may say of a node's configuration: a closed list, the mathematics of a run.

Paths, stores, streams, devices, trackers, whatever names a file, a host or code, is not in it: that
is the node's own, and a server that sends it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from photon.config.between.resume import digest
from photon.config.compose import with_values
from photon.config.schema import Config
from photon.errors import ConfigError

TRAVELS = (
    "run_uuid", "seed", "cleanup_checkpoints_per_round",
    *(f"fl.{name}" for name in (
        "n_total_clients", "n_clients_per_round", "oversample", "n_rounds", "quorum",
        "accept_failures_cnt", "failed_rounds", "ignore_failed_rounds", "aggregate_momenta",
        "reset_optimizer", "reset_dataset_state", "reset_timestamp", "reset_checkpoint",
        "compression", "first_moment_period", "second_moment_period", "fold_updates",
        "secure_aggregation", "secure_threshold",
        "overlap", "overlap_steps", "fragments", "fragment_alpha",
        "frozen_layers", "unfrozen_layers", "personalized_layers", "random_layers",
        "random_init_freq", "truly_random_init", "split_eval",
        "privacy.clip_norm", "privacy.noise_multiplier", "privacy.noise_by",
    )),
    *(f"llm_config.{name}" for name in (
        "max_seq_len", "optimizer", "scheduler", "algorithms", "precision", "fsdp_config",
        "compile", "z_loss", "max_logits_bytes", "nonfinite_loss", "local_steps", "max_duration",
        "global_train_batch_size", "device_train_microbatch_size", "device_eval_batch_size",
        "eval_subset_num_batches", "save_interval", "save_num_checkpoints_to_keep",
    )),
    *(f"llm_config.model.{name}" for name in (
        "name", "d_model", "n_heads", "n_layers", "vocab_size", "max_seq_len", "expansion_ratio",
        "ffn_hidden_size", "ffn_act", "no_bias", "tie_word_embeddings", "norm_eps", "init_std",
        "attn_config", "hf_config",
    )),
    "dataset.embedded",
    *(f"dataset.train.{name}" for name in ("shuffle", "shuffle_seed", "shuffle_block_size")),
)  # fmt: skip
"""Keys that travel; a section travels whole."""

OWN = ("recipe", "dataset", "llm_config.compile")
OWN_PLACES = ("photon.", "dataset.", "dataset/")
"""What counts of a node's own configuration: whole keys and groups, and prefixes of keys that do
not travel.
"""

WORDS = re.compile(r"(?!.*\.\.)[\w .:,+-]{0,200}")
"""A text in the config of a model: neither a path nor the name of a repository."""
CODE = re.compile(
    r"_.*|auto_map|.*_implementation|.*backbone.*|quantization_config|trust_remote_code"
)
"""Entries by which `transformers` finds code or weights elsewhere."""


def travelling(tree: Mapping[str, Any]) -> dict[str, Any]:
    """What a server sends of its configuration, plain: values by key."""
    return {key: _at(tree, key) for key in TRAVELS}


def travel_digest(sent: Mapping[str, Any]) -> str:
    """Hex digest of what decides the mathematics among the keys that a server sends.

    Raises:
        ConfigError: as `taken`.
    """
    return digest(taken(sent, Config()).values_by_key())


def taken(sent: Mapping[str, Any], own: Config) -> Config:
    """The node's configuration with what the server may say, and all of it, in its place.

    Raises:
        ConfigError: a key that is the node's own, one that is missing, or a value that is none of
            its key.
    """
    if foreign := sorted(set(sent) - set(TRAVELS)):
        raise ConfigError(
            f"{foreign[0]}: is this node's own, and the server's message sets it; a server says "
            "what decides the mathematics, and nothing else"
        )
    if missing := [key for key in TRAVELS if key not in sent]:
        raise ConfigError(
            f"{missing[0]}: the server's message lacks it, and a node's own value would be other "
            "mathematics; use one version of Photon on both"
        )
    config = with_values(own, sent)
    model = config.inner.model
    if model.name == "hf_causal_lm" and not model.hf_config:
        raise ConfigError("llm_config.model.hf_config: the server's message has no architecture")
    for key, value in _leaves(model.hf_config):
        if CODE.fullmatch(key) or (isinstance(value, str) and not WORDS.fullmatch(value)):
            raise ConfigError(
                f"llm_config.model.hf_config.{key[:80]}: the server's message may name no code, "
                f"file or repository here, got {str(value)[:80]!r}"
            )
    return config


def ignored(overrides: Sequence[str]) -> list[str]:
    """Those of a node's overrides that count for nothing, since the server decides."""
    return [text for text in overrides if not _is_own(re.split("[=@]", text.lstrip("+~"))[0])]


def _is_own(key: str) -> bool:
    if key in OWN:
        return True
    return key.startswith(OWN_PLACES) and not any(_is_below(key, one) for one in TRAVELS)


def _is_below(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of all entries of a config at any depth; of a list those of its items."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield str(name), None
            yield from _leaves(below, str(name))
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, key)
    else:
        yield key, value
