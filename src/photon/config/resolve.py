"""What a configuration becomes when a run starts, and what may change when it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from photon.config.base import Epochs
from photon.config.compose import EVALUATION, GROUPS, check_overrides, load_config, validate
from photon.config.overrides import parse_override
from photon.config.schema import Config, Machine
from photon.errors import ConfigError, MismatchedCheckpoint

LENGTHS = frozenset({"fl.n_rounds", "llm_config.max_duration"})
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


def count_epochs(config: Config, rows: Callable[[], Sequence[int]], centralized: bool) -> Config:
    """Put batches in the place of durations in epochs, and of the other names of `local_steps`.

    An epoch is a pass over a client's rows (of the largest client, where they differ); in a
    centralised run over those of all clients, or of `centralized.stream_id`.

    Args:
        rows: gives the rows of each client; called only if something is counted in epochs.
    """
    fl, inner = config.federation, config.inner
    if isinstance(inner.local_steps, Epochs):
        config = replace_keys(config, {"fl.n_local_epochs": int(inner.local_steps)})
    elif fl.local_steps:
        config = replace_keys(config, {"llm_config.local_steps": fl.local_steps})
    found = {key: v for key, v in _durations(config.inner, "llm_config.") if isinstance(v, Epochs)}
    if config.federation.local_epochs is not None:
        found["llm_config.local_steps"] = Epochs(config.federation.local_epochs)
    if not found:
        return config
    counts, only = rows(), config.centralized.client
    length = max(counts)
    if centralized:
        length = sum(counts) if only is None else counts[only]
    steps = epoch_steps(length, inner.batch_rows)
    return replace_keys(config, {key: int(value) * steps for key, value in found.items()})


def epoch_steps(rows: int, batch: int) -> int:
    """Steps of one pass over so many rows; rows short of a batch wait for the next pass."""
    return max(1, rows // batch)


def _durations(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in type(section).model_fields.items():
        value, key = getattr(section, name), prefix + (field.alias or name)
        if isinstance(value, BaseModel):
            yield from _durations(value, f"{key}.")
        else:
            yield key, value


def resolve(
    config: Config,
    *,
    cores: int,
    accelerator: int,
    run_uuid: str,
    centralized: bool = False,
    elsewhere: bool = False,
) -> Config:
    """Put a number in the place of every `null` and `auto` that follows from other keys.

    What depends on memory (`device_train_microbatch_size=auto`) is measured where training happens.

    Args:
        cores: CPU cores of this machine.
        accelerator: GPUs that train; 0: the CPU does.
        run_uuid: name to use where the configuration has none.
        centralized: the run ends after `max_duration`, not after `n_rounds` rounds.
        elsewhere: other machines train; whether to compile is theirs to say.
    """
    workers = 0
    if not centralized:
        workers = count_workers(config.machine, cores, accelerator, config.federation.cohort_size)
    threads = config.machine.threads
    if threads in ("auto", 0):
        threads = max(1, cores // max(1, workers * config.machine.devices_per_client))
    compiled = config.inner.compile
    if compiled == "auto" and not elsewhere:
        compiled = bool(accelerator)
    steps = config.inner.max_steps if centralized else None
    steps = steps or config.total_steps
    lr = "llm_config.scheduler.schedulers.lr"
    optimizer = config.inner.optimizer
    return replace_keys(
        config,
        {
            "run_uuid": config.name or run_uuid,
            "fl.aggregate_momenta": config.averages_moments,
            "photon.workers": workers,
            "photon.threads": threads,
            "llm_config.max_duration": steps,
            "llm_config.compile": compiled,
            "llm_config.optimizer.betas": list(optimizer.decay_rates),
            "llm_config.optimizer.eps": optimizer.epsilon,
            "llm_config.model.max_seq_len": config.inner.positions,
            **{f"{lr}.{key}": value for key, value in _schedule(config, steps).items()},
        },
    )


def count_workers(photon: Machine, cores: int, gpus: int, clients: int) -> int:
    """Worker processes that `photon.workers` asks for; 0: none, this process trains.

    Args:
        gpus: that train; 0: the cores do.
        clients: that may train at once.

    Raises:
        ConfigError: more devices for a client than there are.
    """
    each = photon.devices_per_client
    if gpus and each > gpus:
        raise ConfigError(f"photon.devices_per_client={each}: PyTorch sees {gpus} GPUs")
    if photon.workers != "auto":
        if each > 1 and photon.workers == 0:
            raise ConfigError(
                f"photon.devices_per_client={each} needs worker processes: leave photon.workers out"
            )
        return photon.workers
    if each == 1 and (gpus or cores) == 1:
        return 0
    return max(1, min((gpus or cores) // each, clients))


def _schedule(config: Config, steps: int) -> dict[str, int]:
    """The schedule's lengths in steps, each a tenth of the whole where it is not given."""
    schedule = config.inner.schedules.schedulers.lr
    t_max = schedule.t_max or steps
    lengths = {
        name: -(-t_max // 10) if value is None else value
        for name, value in (("t_warmup", schedule.t_warmup), ("t_cooldown", schedule.t_cooldown))
    }
    if schedule.name == "cosine_with_warmup":
        lengths["t_cooldown"] = 0
    if sum(lengths.values()) > t_max:
        shown = " + ".join(f"{name}={value}" for name, value in lengths.items() if value)
        raise ConfigError(
            f"llm_config.scheduler.schedulers.lr: {shown} is more than t_max={t_max}; "
            "shorten these or train for more steps"
        )
    return {"t_max": t_max, **lengths}


def schedule_warning(config: Config) -> str | None:
    """What to tell the user if the (resolved) run goes on after its schedule has ended."""
    schedule = config.inner.schedules.schedulers.lr
    steps = config.inner.max_steps
    if schedule.t_max is None or steps is None or steps <= schedule.t_max:
        return None
    floor = config.inner.optimizer.lr * (schedule.alpha_f or 0.0)
    return (
        f"the schedule ends at t_max={schedule.t_max}, the run at step {steps}: from there on the "
        f"learning rate stays at {floor:g}"
    )


def replace_keys(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of the configuration with some dotted keys replaced, validated again."""
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *path, leaf = key.split(".")
        section = tree
        for part in path:
            if section[part] is None:
                section[part] = {}  # a section that was left out
            section = section[part]
        section[leaf] = value
    return validate(tree)


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
    changed = replace_keys(saved, values)
    check_resumable(saved, changed, done(changed))
    if changed.federation.rounds > saved.federation.rounds:
        changed = replace_keys(
            changed,
            {"llm_config.max_duration": max(changed.total_steps, changed.inner.max_steps or 0)},
        )
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
    own = [text for text in overrides if text.lstrip("+~").startswith(EVALUATION)]
    files = dict(text.split("=", 1) for text in own if text.endswith((".yaml", ".yml")))
    found = load_config([t for t in own if t.split("=")[0] not in files]).model_dump(mode="json")
    values: dict[str, Any] = {section: found[section] for section in EVALUATION}
    for section, name in files.items():
        values[section] |= _section_of_file(section, name)
    for text in overrides:
        override = parse_override(text)
        key = override.key_or_group
        if text in own:
            continue
        if override.is_delete() or key in GROUPS or not key.startswith(MAY_CHANGE_EVALUATION):
            raise ConfigError(
                f"{key}: does not belong to an evaluation; set tasks, composites, dataset.val, "
                "photon.*, or the llm_config keys of evaluation"
            )
        values[key] = override.value()
    return replace_keys(saved, values)


def _section_of_file(section: str, name: str) -> dict[str, Any]:
    import yaml

    try:
        with open(name, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{section}={name}: cannot be read ({reason})") from error
    if isinstance(values, list):
        values = {"icl_tasks": values}
    if not isinstance(values, dict):
        raise ConfigError(f"{section}={name}: must hold keys of {section}, got {values!r:.60}")
    return values


def check_resumable(saved: Config, changed: Config, done: Mapping[str, int] | None = None) -> None:
    """Refuse changes that would alter what the run computes.

    Args:
        done: key of the run's length -> rounds or steps that are behind it, the least that it may
            be lowered to.

    Raises:
        MismatchedCheckpoint: the first key that may not change, with both values.
    """
    before, after = dict(flatten(saved)), dict(flatten(changed))
    for key in before | after:
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


def idle_warning(config: Config) -> str | None:
    """What to tell the user of a run that changes nothing: ADOPT only looks in its first step."""
    inner = config.inner
    if (
        inner.optimizer.name == "adopt"
        and not config.federation.keeps_optimizer
        and inner.local_steps == 1
    ):
        return (
            "llm_config.local_steps=1 with fl.reset_optimizer=true: ADOPT's first step after a "
            "reset changes nothing, so no round does; take more steps, or keep the optimizer"
        )
    return None


def fill_open_keys(saved: Config, given: Config) -> Config:
    """The given configuration with what it leaves open as it is in the saved one."""
    before = dict(flatten(saved))
    left_open = {k: before[k] for k, v in flatten(given) if v in (None, "auto") and k in before}
    return replace_keys(given, left_open)


def flatten(config: Config) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf."""

    def walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    yield from walk(config.model_dump(mode="json"), "")


def digest(config: Config) -> str:
    """Hex digest of the keys that decide what the run computes (those that may not change)."""
    fixed = {
        key: value
        for key, value in flatten(config)
        if not key.startswith(MAY_CHANGE) and key not in LENGTHS and key != "run_uuid"
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
