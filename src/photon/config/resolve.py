"""What a configuration becomes when a run starts: nothing in it is open any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from photon.config.base import Epochs, Section
from photon.config.compose import checked
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.schema import Config, Machine
from photon.errors import ConfigError


# Sections are frozen, so that a narrower type of a field is sound; pyright cannot know it.
class RunMachine(Machine):
    """This machine, its worker processes and threads counted."""

    workers: int = 0  # pyright: ignore[reportIncompatibleVariableOverride]
    threads: int = 1  # pyright: ignore[reportIncompatibleVariableOverride]


class Run(Config):
    """A resolved configuration; its sections are what the parts of a run are given."""

    name: str = Field(alias="run_uuid")  # pyright: ignore[reportIncompatibleVariableOverride]
    machine: RunMachine = Field(alias="photon")  # pyright: ignore[reportIncompatibleVariableOverride]


def count_epochs(config: Config, rows: Callable[[], Sequence[int]], centralized: bool) -> Config:
    """Put batches in the place of durations in epochs, and of the other names of `local_steps`.

    An epoch is a pass over a client's rows (of the largest client, where they differ); in a
    centralised run over those of all clients, or of `centralized.stream_id`.

    Args:
        rows: gives the rows of each client; called only if something is counted in epochs.
    """
    fl, inner = config.federation, config.inner
    if isinstance(inner.local_steps, Epochs):
        config = config.but(federation={"local_epochs": int(inner.local_steps)})
    elif fl.local_steps:
        config = config.but(inner={"local_steps": fl.local_steps})
    found = {"inner": _in_epochs(config.inner), "federation": _alone_in_epochs(config.federation)}
    if config.federation.local_epochs is not None:
        found["inner"]["local_steps"] = Epochs(config.federation.local_epochs)
    if not any(found.values()):
        return config
    counts, only = rows(), config.centralized.client
    length = max(counts)
    if centralized:
        length = sum(counts) if only is None else counts[only]
    steps = epoch_steps(length, inner.batch_rows)
    return config.but(**_times(found, steps))


def epoch_steps(rows: int, batch: int) -> int:
    """Steps of one pass over so many rows; rows short of a batch wait for the next pass."""
    return max(1, rows // batch)


def _in_epochs(inner: Inner) -> dict[str, Any]:
    """The durations in epochs, by field; those of the schedule as changes of its sections."""
    schedule = _alone_in_epochs(inner.schedule)
    below = {"schedules": {"schedulers": {"lr": schedule}}} if schedule else {}
    return {**_alone_in_epochs(inner), **below}


def _alone_in_epochs(section: Section) -> dict[str, Any]:
    """The same, without sections below."""
    return {name: value for name, value in section if isinstance(value, Epochs)}


def _times(durations: dict[str, Any], steps: int) -> dict[str, Any]:
    return {
        name: _times(value, steps) if isinstance(value, dict) else int(value) * steps
        for name, value in durations.items()
    }


def resolve(
    config: Config,
    *,
    cores: int,
    accelerator: int,
    run_uuid: str,
    centralized: bool = False,
    elsewhere: bool = False,
) -> Run:
    """Put a number in the place of every `null` and `auto` that follows from other keys.

    What depends on memory (`device_train_microbatch_size=auto`) is measured where training happens.

    Args:
        cores: CPU cores of this machine.
        accelerator: GPUs that train; 0: the CPU does.
        run_uuid: name to use where the configuration has none.
        centralized: the run ends after `max_duration`, not after `n_rounds` rounds.
        elsewhere: other machines train; whether to compile is theirs to say.

    Raises:
        ConfigError: values that do not go together.
    """
    inner, fl = config.inner, config.averaging()
    clients = 0 if centralized else fl.cohort_size
    compiled = inner.compile
    if compiled == "auto" and not elsewhere:
        compiled = bool(accelerator)
    steps = (inner.max_steps if centralized else None) or config.total_steps
    rates = {"betas": inner.optimizer.decay_rates, "eps": inner.optimizer.epsilon}
    filled = config.but(
        name=config.name or run_uuid,
        federation=fl.but(outer_schedule={"t_max": fl.outer_schedule.t_max or fl.rounds}),
        machine=counted(config.machine, cores, accelerator, clients),
        inner={
            "max_steps": steps,
            "compile": compiled,
            "optimizer": rates,
            "model": {"max_positions": inner.positions},
            "schedules": {"schedulers": {"lr": _schedule(inner, steps)}},
        },
    )
    return checked(Run, filled.model_dump(mode="json"))


def counted(machine: Machine, cores: int, gpus: int, clients: int) -> dict[str, int]:
    """The worker processes and threads of this machine, where `auto` asks for them.

    Args:
        clients: that may train at once; 0: this process trains, in a run without a federation.

    Raises:
        ConfigError: as `count_workers`.
    """
    workers = count_workers(machine, cores, gpus, clients) if clients else 0
    return {"workers": workers, "threads": count_threads(machine, cores, workers)}


def count_threads(machine: Machine, cores: int, workers: int) -> int:
    """CPU threads of each trainer that `photon.threads` asks for."""
    if machine.threads not in ("auto", 0):
        return machine.threads
    return max(1, cores // max(1, workers * machine.devices_per_client))


def count_workers(machine: Machine, cores: int, gpus: int, clients: int) -> int:
    """Worker processes that `photon.workers` asks for; 0: none, this process trains.

    Args:
        gpus: that train; 0: the cores do.
        clients: that may train at once.

    Raises:
        ConfigError: more devices for a client than there are.
    """
    each = machine.devices_per_client
    if gpus and each > gpus:
        raise ConfigError(f"photon.devices_per_client={each}: PyTorch sees {gpus} GPUs")
    if machine.workers != "auto":
        if each > 1 and machine.workers == 0:
            raise ConfigError(
                f"photon.devices_per_client={each} needs worker processes: set photon.workers=auto"
            )
        return machine.workers
    if each == 1 and (gpus or cores) == 1:
        return 0
    return max(1, min((gpus or cores) // each, clients))


def _schedule(inner: Inner, steps: int) -> dict[str, int]:
    """The schedule's lengths in steps, each a tenth of the whole where it is not given."""
    schedule = inner.schedule
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


def schedule_warning(inner: Inner) -> str | None:
    """What to tell the user if the (resolved) run goes on after its schedule has ended."""
    schedule, steps = inner.schedule, inner.max_steps
    if schedule.t_max is None or steps is None or steps <= schedule.t_max:
        return None
    floor = inner.optimizer.lr * (schedule.alpha_f or 0.0)
    return (
        f"the schedule ends at t_max={schedule.t_max}, the run at step {steps}: from there on the "
        f"learning rate stays at {floor:g}"
    )


def outer_schedule_warning(federation: Federation) -> str | None:
    """The same, of the schedule of the outer learning rate."""
    one = federation.outer_schedule
    if one.name == "constant" or one.t_max is None or federation.rounds <= one.t_max:
        return None
    return (
        f"fl.outer_schedule ends at t_max={one.t_max}, the run after round {federation.rounds}: "
        "from there on the outer learning rate stays at its last value"
    )


def idle_warning(inner: Inner, federation: Federation) -> str | None:
    """What to tell the user of a run that changes nothing: ADOPT only looks in its first step."""
    fresh = not federation.keeps_optimizer
    if inner.optimizer.name == "adopt" and fresh and inner.local_steps == 1:
        return (
            "llm_config.local_steps=1 with fl.reset_optimizer=true: ADOPT's first step after a "
            "reset changes nothing, so no round does; take more steps, or keep the optimizer"
        )
    return None
