"""Keys of the original Photon that need no setting here: accepted with a note, or refused.

Every other key of the original is a field of the configuration, and honoured.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from photon.errors import ConfigError, PhotonNote


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
_TRACKED = "metrics.jsonl in the run folder has every number"
_LOADED = "batches are read ahead from memory-mapped shards"

AUTOMATIC: dict[str, Automatic] = {
    "photon.refresh_period": Automatic("a worker is replaced when it dies, and only then"),
    "photon.checkpoint": Automatic(_SAVED),
    "photon.copy_client_checkpoints": Automatic("clients' states stay where their data is"),
    "photon.resume_round": Automatic(_GO_ON, (None,)),
    "photon.restore_run_uuid": Automatic(_GO_ON, (None,)),
    "photon.restore_cent_run_uuid": Automatic("pretrained_model_path starts from a run", (None,)),
    "photon.restore_cent_run_batches": Automatic(
        "pretrained_model_path takes a checkpoint", (None,)
    ),
    "photon.comm_stack.s3": Automatic("photon.transport=s3 asks for it", (False,)),
    "photon.comm_stack.shm": Automatic(
        "processes of one machine share files; see photon.transport"
    ),
    "photon.comm_stack.ray": Automatic("there is no Ray; payloads travel by photon.transport"),
    "use_wandb": Automatic(_TRACKED, (False,)),
    "wandb": Automatic(_TRACKED),
    "cleanup_checkpoints": Automatic("llm_config.save_num_checkpoints_to_keep are kept"),
    "cleanup_checkpoints_per_round": Automatic("llm_config.save_num_checkpoints_to_keep are kept"),
    "icl_tasks_config": Automatic("tasks are scored after training", ("empty",)),
    "eval_gauntlet_config": Automatic("tasks are scored after training", ("empty",)),
    "llm_config.save_folder": Automatic(
        "checkpoints lie in the run folder below photon.saving_path"
    ),
    "llm_config.save_overwrite": Automatic("a run never overwrites another", ()),
    "llm_config.autoresume": Automatic(_GO_ON, (False,)),
    "llm_config.run_name": Automatic("run_uuid names a run"),
    "llm_config.load_path": Automatic("pretrained_model_path starts from weights", (None,)),
    "llm_config.progress_bar": Automatic("photon train --progress"),
    "llm_config.log_to_console": Automatic("photon train --progress"),
    "llm_config.console_log_interval": Automatic("a line per round or interval"),
    "llm_config.callbacks": Automatic("speed, memory and gradients are always measured"),
    "llm_config.loggers": Automatic(_TRACKED),
    "llm_config.tokenizer": Automatic("the tokenizer is the data's own"),
    "llm_config.train_loader": Automatic(_LOADED),
    "llm_config.eval_loader": Automatic(_LOADED),
    "llm_config.eval_first": Automatic("validation comes at llm_config.eval_interval"),
    "llm_config.device_eval_microbatch_size": Automatic("llm_config.device_eval_batch_size"),
    "llm_config.tp_config": Automatic("there is no tensor parallelism; see fsdp_config", (None,)),
    "llm_config.data_local": Automatic("dataset.train.root_local says where the data is"),
    "llm_config.data_remote": Automatic("dataset.train.root_remote says where it is", (None,)),
    "llm_config.model.init_device": Automatic("large models are built on the meta device"),
}
"""By key; a key also stands for all below it."""


def without_automatic(overrides: Sequence[str]) -> list[str]:
    """The overrides without those of automatic keys, after one note for each.

    Raises:
        ConfigError: a value that asks for what is not there.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    kept = []
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            kept.append(text)  # whoever checks them explains it
            continue
        automatic = _find(override.key_or_group)
        if automatic is None:
            kept.append(text)
            continue
        if not override.is_delete() and automatic.only and override.value() not in automatic.only:
            raise ConfigError(
                f"{text}: cannot be had by this key: {automatic.note}; leave it out or set it to "
                f"{_shown(automatic.only[0])}"
            )
        warnings.warn(f"{text}: {automatic.note}", PhotonNote, stacklevel=3)
    return kept


def _find(key: str) -> Automatic | None:
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((AUTOMATIC[prefix] for prefix in prefixes if prefix in AUTOMATIC), None)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower()
