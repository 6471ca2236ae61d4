"""What may change when a run goes on, or a saved model is evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from photon.config.compose import EVALUATION, GROUPS, check_overrides, load_config, with_values
from photon.config.overrides import parse_override
from photon.config.schema import Config
from photon.errors import ConfigError, MismatchedCheckpoint

LENGTH_OF = {"federated": "fl.n_rounds", "centralized": "llm_config.max_duration"}
LENGTHS = frozenset(LENGTH_OF.values())
"""Keys that may be raised on resume, and lowered to what is done: the length of the run."""

MAY_CHANGE = (
    "photon.",
    "compare.",
    "s3_comm_config.",
    "cleanup_checkpoints",
    "use_wandb",
    "wandb.",
    "llm_config.loggers.",
    "icl_tasks_config.",
    "eval_gauntlet_config.",
    "fl.eval_period",
    "fl.split_eval",
    "fl.log_layer_norms",
    "fl.use_unigram_metrics",
    "fl.allow_unigram_metrics_failures",
    "fl.round_timeout",
    "fl.straggler_factor",
    "fl.failed_rounds",
    "fl.round_attempts",
    "fl.privacy.max_epsilon",
    "llm_config.eval_interval",
    "llm_config.eval_subset_num_batches",
    "llm_config.device_eval_batch_size",
    "llm_config.save_interval",
    "llm_config.save_num_checkpoints_to_keep",
    *(
        f"dataset.{split}.{key}"
        for split in ("train", "val")
        for key in ("root_local", "root_remote", "cache_limit", "download_retry")
    ),
    "dataset.train.download_timeout",
    "dataset.val.download_timeout",
)
"""Prefixes of keys that may change on resume: where, how often, on what; never the mathematics."""

MAY_CHANGE_EVALUATION = (
    "photon.",
    "dataset.",
    "llm_config.precision",
    "llm_config.eval_subset_num_batches",
    "llm_config.device_eval_batch_size",
)
"""Prefixes of keys that an evaluation may set besides its own."""


def apply_resume_overrides(
    saved: Config,
    overrides: Sequence[str],
    done: Callable[[Config], Mapping[str, int]] = lambda changed: {},
) -> Config:
    """The configuration of a run that goes on: the saved one with the permitted overrides.

    Args:
        done: gives what `check_resumable` must know of the run, by its changed configuration.

    Raises:
        ConfigError: an unknown key or a malformed value.
        MismatchedCheckpoint: a key that changes the mathematics; the message names it.
    """
    check_overrides(overrides)
    values = {}
    for text in overrides:
        override = parse_override(text)
        if override.is_delete() or override.key_or_group in GROUPS:
            raise MismatchedCheckpoint(f"{text}: a resumed run takes key=value overrides only")
        values[override.key_or_group] = override.value()
    try:
        changed = with_values(saved, values)
    except ConfigError:  # what to do about it is no use where the key may not change anyway
        before = saved.values_by_key()
        fixed = {k: v for k, v in values.items() if k in before and k not in LENGTHS}
        check_resumable(before, before | fixed)
        raise
    check_resumable(saved.values_by_key(), changed.values_by_key(), done(changed))
    if changed.federation.rounds > saved.federation.rounds:
        longer = max(changed.total_steps, changed.inner.max_steps or 0)
        changed = changed.but(inner={"max_steps": longer})
    return changed


def apply_evaluation_overrides(saved: Config, overrides: Sequence[str]) -> Config:
    """The configuration with which a saved model is evaluated.

    Args:
        overrides: task lists and composites, by their names or as YAML files in the original's
            form (`icl_tasks_config=my.yaml`), and keys that leave the model alone.

    Raises:
        ConfigError: an unknown key, a malformed value, an unreadable file, or a key that would
            change the model.
    """
    check_overrides(overrides)
    given = [parse_override(text) for text in overrides]
    chosen = [one.input_line.lstrip("+") for one in given if one.key_or_group in EVALUATION]
    sections = load_config(chosen).model_dump(mode="json")
    # Task list and composites come before single keys, whatever their order.
    values: dict[str, Any] = {section: sections[section] for section in EVALUATION}
    for override in given:
        key = override.key_or_group
        if key in EVALUATION:
            continue
        if not key.startswith((*EVALUATION, *MAY_CHANGE_EVALUATION)):
            raise ConfigError(
                f"{key}: does not belong to an evaluation; set tasks, composites, dataset.val, "
                "photon.*, or the llm_config keys of evaluation"
            )
        values[key] = None if override.is_delete() else override.value()
    return with_values(saved, values)


def check_resumable(
    before: Mapping[str, Any], after: Mapping[str, Any], done: Mapping[str, int] | None = None
) -> None:
    """Refuse changes that would alter what the run computes.

    Args:
        before, after: values by key.
        done: key of the run's length -> rounds or steps that are behind it, the least that it may
            be lowered to.

    Raises:
        MismatchedCheckpoint: the first key that may not change, with both values.
    """
    for key in {**before, **after}:
        value, other = before.get(key), after.get(key)  # None: its section is left out
        if other == value or key.startswith(MAY_CHANGE):
            continue
        rule = _broken_rule(key, value or 0, other or 0, done or {})
        if rule is not None:
            raise MismatchedCheckpoint(
                f"{key}: {rule} when a run is resumed (saved {value!r}, given {other!r}); "
                "start a new run for that"
            )


def _broken_rule(key: str, value: Any, other: Any, done: Mapping[str, int]) -> str | None:
    if key not in LENGTHS:
        return "may not change"
    if other > value or (key in done and other >= max(1, done[key])):
        return None
    if key not in done:
        return "may only be raised"
    return f"may be lowered to the {done[key]} that are done, not below,"


def left_open(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is left open of the given values by key, as it is in the saved ones."""
    return {k: before[k] for k, value in given.items() if value in (None, "auto") and k in before}


def digest(values: Mapping[str, Any]) -> str:
    """Hex digest of the keys that decide what the run computes (those that may not change)."""
    fixed = {
        key: value
        for key, value in values.items()
        if not key.startswith(MAY_CHANGE) and key not in LENGTHS and key != "run_uuid"
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
