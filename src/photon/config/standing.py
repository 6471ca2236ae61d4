"""Keys of the original Photon that need no setting here: accepted with a note, or refused.

Every other key of the original is a field of the configuration, and honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from photon.config.overrides import parse_override
from photon.errors import ConfigError, PhotonNote, warn


@dataclass(frozen=True, slots=True)
class Automatic:
    """A key that is accepted.

    Attributes:
        note: what happens in its place.
        only: the values that mean that; with another one the key is refused. Empty: all.
    """

    note: str
    only: tuple[Any, ...] = ()


_SAVED = "every committed round and every segment is saved, in the run folder"
_GO_ON = "a run goes on with `photon train --resume RUN`, a server with the same command"
_LOADED = "batches are read ahead from memory-mapped shards"

_IN_ORDER = "validation is read in the order on disk"
_READING = {
    "max_seq_len": Automatic("rows have the length llm_config.max_seq_len"),
    "validate_hash": Automatic("shards carry hashes; `photon data verify` checks them"),
    "keep_zip": Automatic("shards are not compressed"),
    "epoch_size": Automatic("an epoch is every row once; a stream can `choose` so many", (None,)),
    "predownload": Automatic("shards come as they are needed, and one ahead"),
    "partition_algo": Automatic("each process reads its part of every batch"),
    "num_canonical_nodes": Automatic("the order is the same for any number of processes"),
    "shuffle_algo": Automatic("the order is one addressed permutation"),
    "sampling_method": Automatic("streams are mixed by proportion, repeat, choose", ("balanced",)),
    "sampling_granularity": Automatic("rows are drawn one by one", (1,)),
    "batching_method": Automatic("a batch mixes the streams at random", ("random",)),
}

AUTOMATIC: dict[str, Automatic] = {
    "photon.checkpoint": Automatic(_SAVED),
    "photon.comm_stack.s3": Automatic("photon.transport=s3 asks for it", (False,)),
    "photon.comm_stack.shm": Automatic(
        "processes of one machine share files; see photon.transport"
    ),
    "photon.comm_stack.ray": Automatic("there is no Ray; payloads travel by photon.transport"),
    "llm_config.save_folder": Automatic(
        "checkpoints lie in the run folder below photon.saving_path"
    ),
    "llm_config.save_overwrite": Automatic("a run never overwrites another", ()),
    "llm_config.autoresume": Automatic(_GO_ON, (False,)),
    "llm_config.run_name": Automatic("run_uuid names a run"),
    "llm_config.load_path": Automatic("pretrained_model_path starts from weights", (None,)),
    "llm_config.progress_bar": Automatic("a line per round or interval, unless --quiet"),
    "llm_config.log_to_console": Automatic("a line per round or interval, unless --quiet"),
    "llm_config.console_log_interval": Automatic("a line per round or interval"),
    "llm_config.callbacks": Automatic("speed, memory and gradients are always measured"),
    "llm_config.tokenizer": Automatic("the tokenizer is the data's own"),
    "llm_config.train_loader": Automatic(_LOADED),
    "llm_config.eval_loader": Automatic(_LOADED),
    "llm_config.device_eval_microbatch_size": Automatic("llm_config.device_eval_batch_size"),
    "llm_config.tp_config": Automatic("there is no tensor parallelism; see fsdp_config", (None,)),
    "llm_config.data_local": Automatic("dataset.train.root_local says where the data is"),
    "llm_config.data_remote": Automatic("dataset.train.root_remote says where it is", (None,)),
    "llm_config.model.init_device": Automatic("large models are built on the meta device"),
    "llm_config.global_seed": Automatic("seed is the address of all random numbers", (17,)),
    "llm_config.seed": Automatic("seed is the address of all random numbers", (17,)),
    "llm_config.eval_gauntlet": Automatic("eval_gauntlet_config has the composites"),
    "llm_config.icl_tasks": Automatic("icl_tasks_config has the tasks"),
    "llm_config.icl_tasks_config": Automatic("icl_tasks_config has the tasks"),
    "llm_config.fsdp_config.activation_checkpointing_reentrant": Automatic(
        "blocks are recomputed in the way that is not reentrant", (False,)
    ),
    "llm_config.fsdp_config.activation_cpu_offload": Automatic(
        "activations stay on the device, or are recomputed: activation_checkpointing", (False,)
    ),
    "llm_config.fsdp_config.limit_all_gathers": Automatic("FSDP2 limits them by itself"),
    "centralized.reset_timestamp": Automatic(
        "a start from other parameters begins at step 0, a resumed run goes on at its step"
    ),
    "fl.set_trainer_params_filter_keys": Automatic("parameters go by their names"),
    "fl.set_trainer_key_to_filter": Automatic(
        "parameters go by their names; fl.unfrozen_layers chooses some", ("transformer",)
    ),
    **{
        f"dataset.{split}.{key}": automatic
        for split in ("train", "val")
        for key, automatic in _READING.items()
    },
    "dataset.train.split": Automatic("train is read to train from", ("train",)),
    "dataset.val.split": Automatic("validation is read to validate", ("validation",)),
    "dataset.val.shuffle": Automatic(_IN_ORDER),
    "dataset.val.shuffle_seed": Automatic(_IN_ORDER),
    "dataset.val.shuffle_block_size": Automatic(_IN_ORDER),
}
"""By key; a key also stands for all below it."""


def without_automatic(overrides: Sequence[str]) -> list[str]:
    """The overrides without those of automatic keys, after one note for each.

    Raises:
        ConfigError: a value that asks for what is not there.
    """
    kept = []
    for text in overrides:
        try:
            override = parse_override(text)
        except ConfigError:
            kept.append(text)  # whoever checks them explains it
            continue
        automatic = standing_of(override.key_or_group)
        if automatic is None:
            kept.append(text)
            continue
        if not override.is_delete() and automatic.only and override.value() not in automatic.only:
            raise ConfigError(
                f"{text}: cannot be had by this key: {automatic.note}; leave it out or set it to "
                f"{_shown(automatic.only[0])}"
            )
        warn(f"{text}: {automatic.note}", PhotonNote)
    return kept


def standing_of(key: str) -> Automatic | None:
    """What is said of a key that is no field; None for any other."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((AUTOMATIC[prefix] for prefix in prefixes if prefix in AUTOMATIC), None)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower()


LOCAL_WORK = ("llm_config.local_steps", "fl.n_local_steps", "fl.n_local_epochs")


def check_local_work(overrides: Sequence[str]) -> None:
    """Refuse two different answers to how much a client trains in a round.

    Raises:
        ConfigError: naming both keys.
    """
    given = [text.lstrip("+") for text in overrides if "=" in text]
    said = [text for text in given if text.split("=")[0] in LOCAL_WORK]
    said = [text for text in said if text.split("=")[1] not in ("0", "null")]
    keys = dict(text.split("=", 1) for text in said)
    if len(keys) > 1:
        raise ConfigError(
            f"{' and '.join(f'{key}={value}' for key, value in keys.items())}: each says how much "
            "a client trains in a round; give one of them"
        )
