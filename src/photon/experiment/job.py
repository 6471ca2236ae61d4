"""Who runs: the processes of a job, this one's device, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from photon.config.explain.idle import Course
from photon.config.resolve import Run
from photon.errors import ConfigError, warn
from photon.machine.interrupt import StopRequest
from photon.machine.process_group import AgreedStop, process_group
from photon.node.engine import local_engine
from photon.run.going_on import LOCAL
from photon.run.kinds import FEDERATED
from photon.run.run_folder import RunFolder
from photon.run.trackers import Tracker
from photon.say import Say
from photon.server.engine import Engine
from photon.training.parallel import World
from photon.wire.signatures import Seal

TrackerFactory = Callable[[RunFolder, str], Tracker]
"""Gives the console's tracker for a run and what it is called."""


@dataclass(frozen=True, slots=True)
class EngineFactory:
    """Gives what trains the clients of a federated run.

    Attributes:
        name: kept in run.json: a run goes on with its own engine.
        options: of the command that goes on.
        course: which keys have an effect.
        seal: signs the run's history; None: there is no key.
    """

    name: str
    make: Callable[[RunFolder, Run, Job], Engine]
    options: tuple[str, ...] = ()
    seal: Seal | None = None
    course: Course = "federated"

    def facts(self) -> dict[str, Any]:
        return {"engine": self.name, "engine_options": list(self.options)}


on_this_machine = EngineFactory(
    LOCAL, lambda folder, run, job: local_engine(folder, run, job.device)
)
"""The local engine, in this process or with workers."""


@dataclass(frozen=True, slots=True)
class Job:
    """One command, in one process or in several that `torchrun` has started.

    Attributes:
        world: the processes; the first one writes files and speaks.
        device: where this process trains.
        stop: asked between steps.
        say, console: for the user.
        engine: gives what trains the clients of a federated run.
    """

    world: World
    device: torch.device
    stop: StopRequest
    say: Say
    console: TrackerFactory | None
    engine: EngineFactory

    @property
    def trains_elsewhere(self) -> bool:
        return self.engine.name != LOCAL

    def warn(self, *messages: str | None) -> None:
        """Warn of what is not None, once for all processes."""
        for message in messages:
            if message is not None and self.world.is_first:
                warn(message)

    def trackers(self, folder: RunFolder, label: str) -> list[Tracker]:
        return [self.console(folder, label)] if self.console and self.world.is_first else []


@contextmanager
def open_job(
    device: str,
    kind: str,
    say: Say,
    console: TrackerFactory | None,
    engine: EngineFactory,
) -> Iterator[Job]:
    """Join the processes, choose the device, listen for signals.

    Raises:
        ConfigError: several processes for a federated run.
        DeviceError: no such device.
    """
    with process_group(device) as (world, chosen), StopRequest() as own:
        if world.size > 1 and kind == FEDERATED:
            raise ConfigError(
                "torchrun starts centralised runs (--centralized); a federated run starts its own "
                "workers: set photon.workers"
            )
        stop = AgreedStop(own, world) if world.size > 1 else own
        yield Job(
            world, chosen, stop, say if world.is_first else lambda line: None, console, engine
        )
