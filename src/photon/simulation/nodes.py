"""The nodes of a simulation: real services, made when they are spoken to, over one engine."""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import torch

from photon.config.resolve import Run
from photon.core.messages import Broadcast, Instruction, Update
from photon.data.read.stream import JoinedStream
from photon.node.client_host import ClientHost
from photon.node.course import Segments
from photon.node.engine import InProcess
from photon.node.hosted_run import HostedRun, run_of
from photon.node.mailbox import Mailbox
from photon.node.measure import Spent
from photon.node.service import NodeService
from photon.run.run_folder import RunFolder
from photon.say import Say
from photon.simulation.links import Place
from photon.simulation.stand_in import StandIn
from photon.training.loop import Trainer
from photon.training.outgoing import Outgoing
from photon.training.parallel import World
from photon.wire.buffers import Buffers
from photon.wire.messages import Train

FEWEST_SERVICES = 64
"""That stay in memory; none of a client's state is in them."""


class Nodes:
    """Answers messages as their nodes would.

    Args:
        run: the server's; nodes have the same keys, in folders of their own.
        home: of what nodes keep.
        stands_in: whether nothing is trained.
        should_stop: asked between steps.
    """

    def __init__(
        self, run: Run, home: Path, stands_in: bool, should_stop: Callable[[], bool]
    ) -> None:
        machine = {"runs_folder": str(home), "workers": 0, "step_seconds": None}
        self.own, self.stands_in, self._should_stop = (
            run.but(machine=machine),
            stands_in,
            should_stop,
        )
        self._most = max(FEWEST_SERVICES, 2 * run.federation.cohort_size)
        self._services: OrderedDict[str, NodeService] = OrderedDict()
        self._shared: HostedRun | None = None
        self._host: _Host | None = None
        self._seconds: Mapping[int, float] | None = None

    def answer(
        self, place: Place, message: Buffers, seconds: Mapping[int, float] | None = None
    ) -> Buffers:
        """What a node answers.

        Args:
            seconds: of each client's training in it, in place of what is measured.
        """
        service = self._services.pop(place.name, None) or _Service(place, self.own, self._hosted)
        self._services[place.name] = service
        if len(self._services) > self._most:
            self._services.popitem(last=False)
        self._seconds = seconds
        if self._host is not None:
            self._host.seconds = seconds
        return service.answer(message)

    def forget(self, place: Place) -> None:
        """A node's process has died: what it had in memory is lost."""
        self._services.pop(place.name, None)

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def _hosted(self, request: Train, mailbox: Mailbox, say: Say) -> HostedRun:
        """The run of all nodes, as one of them sees it."""
        if self._shared is None:
            if self.stands_in:  # nobody's data is read
                request = request.model_copy(update={"instructions": []})
            run = run_of(request, self.own)
            self._shared = HostedRun.open(request, run, mailbox, say, self._engine)
        return HostedRun(
            self._shared.folder,
            self._shared.run,
            self._shared.engine,
            request.config_digest,
            mailbox,
            say,
        )

    def _engine(self, folder: RunFolder, run: Run, device: torch.device) -> InProcess:
        torch.set_num_threads(run.machine.threads)
        kind = _StandInHost if self.stands_in else _Host
        self._host = kind(run, folder.clients, device)
        self._host.seconds, self._host.ends = self._seconds, self._should_stop
        return InProcess(self._host, run.federation.population)


class _Service(NodeService):
    """A service whose run, and whose trainer, it shares with the others."""

    def __init__(
        self, place: Place, own: Run, hosted: Callable[[Train, Mailbox, Say], HostedRun]
    ) -> None:
        path = Path(own.machine.runs_folder) / place.name
        super().__init__(place.name, list(place.clients), own, path, None, lambda line: None)
        self._shared = hosted

    def _hosted(self, request: Train) -> HostedRun:
        self._run = self._shared(request, self._mailbox, self.say)
        return self._run


class _Host(ClientHost):
    """Says of a client's training how long it takes in the simulation.

    Attributes:
        seconds: by client; None: as it was measured.
        ends: whether the simulation is to end.
    """

    MOST_STREAMS = 64

    seconds: Mapping[int, float] | None = None
    ends: Callable[[], bool] = staticmethod(lambda: False)

    def train(
        self,
        instruction: Instruction,
        received: Broadcast,
        should_stop: Callable[[], bool] = lambda: False,
        following: Instruction | None = None,
    ) -> Future[Path]:
        ends = self.ends
        return super().train(instruction, received, lambda: should_stop() or ends(), following)

    def _update(
        self, instruction: Instruction, out: Outgoing, lost: bool, metrics: dict[str, float]
    ) -> Update:
        if self.seconds is not None:
            metrics = in_virtual_time(
                metrics, self.seconds.get(instruction.client, 0.0), self.trainer.state.num_tokens
            )
        return super()._update(instruction, out, lost, metrics)

    def _stream(self, client: int) -> JoinedStream:
        if len(self._streams) >= self.MOST_STREAMS:
            self._streams.clear()
        return super()._stream(client)


class _StandInHost(_Host):
    def __init__(self, run: Run, folder: Path, device: torch.device) -> None:
        super().__init__(run, folder, device)
        at_once = run.inner.but(segment_steps=sys.maxsize)  # nothing is worth saving between
        self._segments = Segments(self.trainer, self.files, at_once, 0.0)

    def _make_trainer(self, run: Run, device: torch.device, world: World) -> Trainer:
        return StandIn(run.inner, run.seed, device, world, self.layers.frozen)

    def _stream(self, client: int) -> JoinedStream:
        self.trainer.client = client  # pyright: ignore[reportAttributeAccessIssue]
        return None  # pyright: ignore[reportReturnType]

    def _score_own(self, instruction: Instruction, key: str, spent: Spent) -> dict[str, float]:
        """Nothing: a loss would say nothing, and would need the client's data."""
        return {}


def in_virtual_time(metrics: Mapping[str, float], seconds: float, tokens: int) -> dict[str, float]:
    """A client's numbers with the simulation's seconds in place of this machine's.

    Args:
        seconds: of its training; nothing else takes any.
        tokens: that it was trained on.
    """
    kept = {
        key: 0.0 if key.endswith("_seconds") else value
        for key, value in metrics.items()
        if key not in ("flops_utilization", "peak_memory", "tokens_per_second")
    }
    speed = {"tokens_per_second": tokens / seconds} if seconds and math.isfinite(seconds) else {}
    return {**kept, "seconds": seconds, "train_seconds": seconds, **speed}
