"""`photon simulate` put together: the server's own engine over virtual links."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from photon.config.resolve import Run
from photon.core.messages import Arrival, RoundPlan
from photon.experiment.job import EngineFactory, Job
from photon.experiment.remote import depot_of
from photon.machine.waiting import Waiting
from photon.node.hosted_run import data_facts
from photon.run.base import Base
from photon.run.going_on import SIMULATED, STAND_IN
from photon.run.results import TrainResult, write_summary
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.run.trackers import read_lines
from photon.say import Say
from photon.server.depot import Depot
from photon.server.engine import Engine
from photon.server.link import Answer
from photon.server.remote import RemoteEngine
from photon.server.roster import Roster
from photon.simulation.ledger import Ledger
from photon.simulation.link import VirtualLink
from photon.simulation.links import Links, Place
from photon.simulation.nodes import Nodes
from photon.simulation.timeline import Timeline
from photon.wire.enrolment import Register


class SimulatedEngine(RemoteEngine):
    """Lets the seconds pass that a server needs between two rounds."""

    def __init__(
        self,
        run: Run,
        data: dict[str, Any],
        link: VirtualLink,
        roster: Roster,
        depot: Depot,
        say: Say,
        server_seconds: float,
    ) -> None:
        super().__init__(run, data, link, roster, depot, say, clock=link.timeline)
        self.timeline, self.server_seconds = link.timeline, server_seconds
        self._waiting = Waiting(lambda line: None, link.timeline)  # nobody waits for it

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        self.timeline.advance(self.server_seconds)
        yield from super().run_round(plan, base, waiting, should_stop)


@dataclass(slots=True)
class Simulation:
    """One command's.

    Args:
        places: all nodes.
        options: of the command that goes on.
    """

    links: Links
    places: Sequence[Place]
    options: tuple[str, ...] = ()
    _timeline: Timeline[Answer] = field(init=False)
    _ledger: Ledger = field(init=False)
    _link: VirtualLink = field(init=False)
    _tokens_before: int = 0
    _round_before: int = 0
    _has_begun: bool = False

    @property
    def factory(self) -> EngineFactory:
        """Gives the engine that `experiment` trains with."""
        name = STAND_IN if self.links.trainer == "stand-in" else SIMULATED
        return EngineFactory(name, self._make, self.options, course="simulated")

    def told(self, result: TrainResult) -> TrainResult:
        """The result with what the simulation has found; in the run's `summary.json` too."""
        if not self._has_begun or result.federated is None:
            return result  # nothing was left to train
        result = replace(result, simulated=self.so_far(result.federated.tokens))
        write_summary(result.folder, result)
        return result

    def so_far(self, tokens: int) -> dict[str, Any]:
        """What the simulation has found until now, of the rounds after `after_round`.

        Args:
            tokens: of the run, that have reached the model.
        """
        merged, under_way = tokens - self._tokens_before, self._link.tokens_under_way
        found = self._ledger.report(self._timeline.now, merged, under_way)
        return {"after_round": self._round_before, **found}

    def _make(self, folder: RunFolder, run: Run, job: Job) -> Engine:
        links = self.links
        seconds = 0.0 if links.server_seconds == "measured" else links.server_seconds
        self._timeline = timeline = Timeline(is_real=links.server_seconds == "measured")
        self._ledger = Ledger([place.name for place in self.places])
        self._round_before, self._tokens_before = _so_far(folder.metrics)
        self._has_begun = True
        nodes = Nodes(run, folder.path / "nodes", links.trainer == "stand-in", job.stop)
        self._link = link = VirtualLink(
            links, self.places, nodes, timeline, self._ledger,
            seed=run.seed if links.seed is None else links.seed,
            segment=run.inner.segment_steps,
            tokens=run.inner.tokens_per_step,
        )  # fmt: skip
        register = Register(None)
        roster = Roster(link, register, lambda line: None, timeline)
        data = data_facts(RunData.of(*run.reading))
        return SimulatedEngine(run, data, link, roster, depot_of(folder, run), job.say, seconds)


def _so_far(metrics: Path) -> tuple[int, int]:
    """Rounds and tokens of a run that goes on."""
    lines: list[dict[str, Any]] = read_lines(metrics)
    return (int(lines[-1]["round"]), int(lines[-1]["tokens"])) if lines else (0, 0)
