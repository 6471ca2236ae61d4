"""Clients that lie: the engine of this machine, with the answers of some clients altered.

What honest clients send goes through as it is. A liar trains like the others, and then sends
something else, in the codec of the run; or it trains on rows whose tokens have been shuffled.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from photon.config.resolve import Run
from photon.core.codec import Codec, decode, encode
from photon.core.messages import Arrival, Failure, RoundPlan, StreamState, Update
from photon.data.read.stream import JoinedStream
from photon.experiment.job import EngineFactory, Job
from photon.node.engine import InProcess, LocalEngine, local_engine
from photon.run.base import Base
from photon.run.going_on import LOCAL
from photon.run.run_folder import RunFolder
from photon.training.outline import codecs_of


@dataclass(slots=True)
class Seen:
    """What a liar knows of a round, and of what was sent before.

    Attributes:
        like: tensors with the shapes of what is sent.
        others: updates of this round, by client.
        first: the first update that each liar has made.
    """

    codec: Codec
    like: dict[str, Tensor]
    others: dict[int, Update] = field(default_factory=dict)
    first: dict[int, Update] = field(default_factory=dict)


Lie = Callable[[Update, Seen], Arrival]


def altered(change: Callable[[Tensor], Tensor]) -> Lie:
    """Sends a change of each tensor of its pseudo-gradient."""

    def lie(update: Update, seen: Seen) -> Update:
        honest = decode(update.gradient, seen.like, seen.codec)
        changed = {name: change(value) for name, value in honest.items()}
        return replace(update, gradient=encode(changed, seen.codec)[0])

    return lie


def not_a_number(update: Update, seen: Seen) -> Update:
    """The bits of NaN, or of what comes nearest, wherever the codec sends a number."""

    def spoilt(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.full_like(value, torch.nan)
        return value.clone().view(torch.uint8).fill_(0xFF).view(value.dtype)

    return replace(update, gradient={key: spoilt(v) for key, v in update.gradient.items()})


def copied(update: Update, seen: Seen) -> Update:
    """Sends what the first client has sent."""
    return replace(update, gradient=seen.others[min(seen.others)].gradient)


def stale(update: Update, seen: Seen) -> Update:
    """Sends what it has made in its first round, in every one."""
    first = seen.first.setdefault(update.client, update)
    return replace(update, gradient=first.gradient)


def greedy(update: Update, seen: Seen) -> Update:
    return replace(update, num_tokens=10**12)


def absent(update: Update, seen: Seen) -> Failure:
    return Failure(update.client, "absent")


def honest(update: Update, seen: Seen) -> Update:
    return update


ABSENT, SHUFFLED = "absent", "shuffled"
LIES: dict[str, Lie] = {
    ABSENT: absent,
    "x1000": altered(lambda value: value * 1000.0),
    "flipped": altered(lambda value: -value),
    "flipped x3": altered(lambda value: value * -3.0),
    "nan": not_a_number,
    "zero": altered(torch.zeros_like),
    "copied": copied,
    "stale": stale,
    SHUFFLED: honest,
    "10^12 tokens": greedy,
}
"""By name; those that are absent are the control of the others."""


class Shuffled(JoinedStream):
    """The same rows, the tokens of each in another order."""

    def read(self, states: Any, count: int) -> tuple[np.ndarray, tuple[StreamState, ...]]:
        rows, after = super().read(states, count)
        draw = np.random.default_rng(zlib.crc32(rows.tobytes()))
        return draw.permuted(rows, axis=1), after


class LyingEngine:
    """The clients of an engine, of which some lie."""

    def __init__(self, engine: LocalEngine, run: Run, liars: range, attack: str) -> None:
        self.engine, self.liars, self.lie = engine, liars, LIES[attack]
        self.codec = codecs_of(run.federation).gradient
        self.first: dict[int, Update] = {}
        if attack == SHUFFLED:
            assert isinstance(engine, InProcess), "photon.workers=0: workers read for themselves"
            for client in liars:
                stream = engine.host.data.stream(client)
                engine.host._streams[client] = Shuffled([stream])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Arrival, None, None]:
        like = {n: torch.empty_like(v, device="meta") for n, v in base.sent.params.items()}
        seen = Seen(self.codec, like, first=self.first)
        for arrival in self.engine.run_round(plan, base, waiting, should_stop):
            if isinstance(arrival, Update) and arrival.client in self.liars:
                yield self.lie(arrival, seen)
                continue
            if isinstance(arrival, Update):
                seen.others[arrival.client] = arrival
            yield arrival


def lying(attack: str, liars: range) -> EngineFactory:
    """The engine of this machine, some of whose clients lie."""

    def make(folder: RunFolder, run: Run, job: Job) -> Any:
        return LyingEngine(local_engine(folder, run, job.device), run, liars, attack)

    return EngineFactory(LOCAL, make)
