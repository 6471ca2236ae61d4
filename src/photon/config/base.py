"""What every section of the configuration builds on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic.fields import FieldInfo

DURATION = re.compile(r"\s*([0-9][0-9_]*)\s*([a-z]*)\s*")


class Epochs(int):
    """A number of passes over the data, where batches are counted once the data is known."""


def parse_batches(value: Any) -> Any:
    """Turn a duration such as `40960ba` (batches) or `2ep` (epochs) into a number.

    Raises:
        ValueError: another unit. (`tok` is counted before, by what knows the batch.)
    """
    if not isinstance(value, str):
        return value
    match = DURATION.fullmatch(value)
    if match is None or match[2] not in ("", "ba", "ep"):
        raise ValueError(f"durations are, for example, 16ba, 2ep or 1_000_000tok; got {value!r}")
    count = int(match[1].replace("_", ""))
    return Epochs(count) if match[2] == "ep" else count


def batches_of_tokens(value: Any, tokens_per_batch: int) -> Any:
    """Turn a duration in tokens, such as `1_000_000tok`, into batches, rounded up."""
    match = DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] != "tok":
        return value
    return -(-int(match[1].replace("_", "")) // tokens_per_batch)


def _duration(value: Any, check: ValidatorFunctionWrapHandler) -> int:
    parsed = parse_batches(value)
    number = check(parsed)
    return Epochs(number) if isinstance(parsed, Epochs) else number


def _shown(value: int) -> int | str:
    return f"{int(value)}ep" if isinstance(value, Epochs) else value


def parse_bytes(value: Any) -> Any:
    """Turn a size such as `10gb` into a number of bytes; numbers pass through.

    Raises:
        ValueError: no such unit.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmgt]?)b?\s*", value.lower())
    if match is None:
        raise ValueError(f"sizes are bytes, or kb, mb, gb, tb of 1024, as in 10gb; got {value!r}")
    return int(float(match[1].replace("_", "")) * 1024 ** " kmgt".index(match[2] or " "))


_AS_DURATION = WrapValidator(_duration)
Batches = Annotated[int, _AS_DURATION, PlainSerializer(_shown)]
Bytes = Annotated[int, BeforeValidator(parse_bytes)]


KEYS = {
    "max_positions": "max_seq_len", "tied": "tie_word_embeddings", "attention": "attn_config",
    "hf_folder": "pretrained_model_name_or_path", "hf_weights": "pretrained",
    "hf_overrides": "config_overrides", "root": "root_local", "store": "root_remote",
    "shuffle_rows": "shuffle_block_size", "validation": "val", "folder": "root_dir",
    "tasks": "icl_tasks", "gauntlet": "eval_gauntlet", "row_length": "max_seq_len",
    "schedules": "scheduler", "sharding": "fsdp_config", "max_steps": "max_duration",
    "batch_rows": "global_train_batch_size", "microbatch_rows": "device_train_microbatch_size",
    "validation_rows": "device_eval_batch_size", "validation_batches": "eval_subset_num_batches",
    "validates_first": "eval_first", "validation_interval": "eval_interval",
    "segment_steps": "save_interval", "checkpoints_kept": "save_num_checkpoints_to_keep",
    "judging": "scoring",
    "population": "n_total_clients", "cohort": "n_clients_per_round", "rounds": "n_rounds",
    "outer_name": "strategy_name", "outer_given": "strategy_kwargs",
    "averages_moments": "aggregate_momenta", "resets_optimizer": "reset_optimizer",
    "rereads_data": "reset_dataset_state", "restarts_schedule": "reset_timestamp",
    "forgets_clients": "reset_checkpoint", "local_epochs": "n_local_epochs",
    "scaling": "scaling_fn", "personal_layers": "personalized_layers",
    "redraw_every": "random_init_freq", "redraws_anew": "truly_random_init",
    "vocabulary": "resize_vocab", "failures_accepted": "accept_failures_cnt",
    "skips_failed_rounds": "ignore_failed_rounds", "spares": "oversample",
    "validation_period": "eval_period", "validates_clients": "split_eval",
    "measures_noise": "use_noise_scale_metric", "unigram_metrics": "use_unigram_metrics",
    "unigram_may_fail": "allow_unigram_metrics_failures", "layer_norms": "log_layer_norms",
    "runs_folder": "saving_path", "nodes": "n_nodes", "copied_run": "restore_run_uuid",
    "copies_clients": "copy_client_checkpoints", "centralized_run": "restore_cent_run_uuid",
    "centralized_step": "restore_cent_run_batches", "client": "stream_id",
    "keeps_first": "store_init_model", "keeps_last": "store_final_model",
    "only_validates": "eval_only", "bucket": "bucket_name", "attempts": "num_attempts",
    "start_path": "pretrained_model_path", "embedding_path": "wte_parameters_path",
    "clears_checkpoints": "cleanup_checkpoints",
    "keeps_newest_only": "cleanup_checkpoints_per_round", "mirror": "s3_comm_config",
    "machine": "photon", "federation": "fl", "inner": "llm_config", "data": "dataset",
    "scoring": "icl_tasks_config", "composites": "eval_gauntlet_config",
}  # fmt: skip
"""Of fields that are called otherwise in the code, by the glossary: their keys, the original's."""


LARGEST = 2**53
"""Of any whole number: what every reader of JSON still has exactly."""
LONGEST = 1e9
"""Seconds that may be waited for: thirty years, which clocks of the system can count."""
MOST = {
    "population": 250_000, "rounds": 10**7, "local_steps": 10**7, "local_epochs": 10**6,
    "batch_rows": 2**24, "microbatch_rows": 2**24, "validation_rows": 2**24, "row_length": 2**24,
    "max_positions": 2**24, "n_layers": 2**10, "n_heads": 2**16, "kv_n_heads": 2**16,
    "d_model": 2**20, "ffn_hidden_size": 2**22, "expansion_ratio": 2**10, "vocab_size": 2**24,
    "vocabulary": 2**24,
}  # fmt: skip
"""Of fields whose number is of things that are made or counted one by one: far beyond any use, and
little enough that a slip of the keyboard takes neither all memory nor for ever. What the server
knows of each client stands in the head of its state, which has room for so many.
"""


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of a union."""
    for one in get_args(annotation) or (annotation,):
        yield from _kinds(one) if get_args(one) else (one,)


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PROJECT = r"^[^/\\#?%:]+$"
PATTERNS = {
    NAME: "is made of letters a-z, digits, '.', '_' and '-', and begins with a letter or digit",
    PROJECT: "is a name without any of / \\ # ? % :",
}
"""Of a text that must be like one of them: that in words."""


def filled(value: Any, remedy: str) -> Any:
    """Raises:
    ValueError: a text that says nothing.
    """
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"is empty; {remedy}")
    return value


def one_or_more(value: int | str) -> int | str:
    """A number that is given, or auto."""
    if isinstance(value, int) and value < 1:
        raise ValueError("must be 1 or more, or auto")
    return value


class Closed(BaseModel):
    """Base of sections and messages: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Written(Closed):
    """Base of what people write, to whom YAML makes a truth value of `yes` and `on`."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_as_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool):
            kinds = set(_kinds(cls.model_fields[info.field_name or ""].annotation))
            if kinds & {int, float} and bool not in kinds:
                raise ValueError(f"expected a number, got {str(value).lower()}")
        return value


class Section(Written):
    """Base of all sections: a field has the glossary's name; the original's key is its alias."""

    model_config = ConfigDict(
        alias_generator=lambda name: KEYS.get(name, name), serialize_by_alias=True
    )

    @field_validator("*", mode="after")
    @classmethod
    def _refuse_what_nobody_means(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int):
            most = MOST.get(info.field_name or "", LARGEST)
            if abs(value) > most:
                bound = f"at most {most}" if value > 0 else f"at least {-most}"
                raise ValueError(f"must be {bound}, got {int(value)}")
        return value

    def but(self, **changes: Any) -> Self:
        """A copy with other values, by field; a mapping changes fields of a section.

        Nothing is checked: it is for what follows from values that were.
        """

        def changed(name: str, value: Any) -> Any:
            is_section = isinstance(section := getattr(self, name), Section)
            return section.but(**value) if is_section and isinstance(value, dict) else value

        return self.model_copy(update={name: changed(name, v) for name, v in changes.items()})

    def values_by_key(self) -> dict[str, Any]:
        """The plain value of every dotted key."""

        def walk(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
            for key, value in tree.items():
                if isinstance(value, dict):
                    yield from walk(value, f"{prefix}{key}.")
                else:
                    yield prefix + key, value

        return dict(walk(self.model_dump(mode="json"), ""))


def keys_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a section by their keys, in order."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_type(annotation: Any) -> type[BaseModel] | None:
    """The section class in an annotation such as `GradientClipping | None`, if there is one."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def in_batches(section: type[BaseModel], values: Any, tokens_per_batch: int) -> Any:
    """Plain values of a section, the durations among them in batches where they were in tokens."""
    if not isinstance(values, dict):
        return values
    fields = keys_of(section)

    def counted(key: str, value: Any) -> Any:
        if key not in fields:
            return value  # whoever checks the keys names it
        if (below := section_type(fields[key].annotation)) is not None:
            return in_batches(below, value, tokens_per_batch)
        return batches_of_tokens(value, tokens_per_batch) if _is_duration(fields[key]) else value

    return {key: counted(key, value) for key, value in values.items()}


def _is_duration(field: FieldInfo) -> bool:
    return _AS_DURATION in field.metadata or Batches in get_args(field.annotation)
