"""What a node has done of a round at some moment of virtual time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from photon.wire.facts import InstructionFacts


@dataclass(frozen=True, slots=True)
class Done:
    """Steps that a client has behind it, and that are kept whatever happens."""

    round: int
    base: str
    steps: int


@dataclass(frozen=True, slots=True)
class Task:
    """A training that is under way: clients one after the other, each step as long as the others.

    Attributes:
        begun: virtual seconds, of the first step.
        pace: seconds of a step.
        steps: that each client still has to take, in order.
    """

    instructions: Sequence[InstructionFacts]
    begun: float
    pace: float
    steps: Sequence[int]

    @property
    def end(self) -> float:
        return self.begun + self.pace * sum(self.steps)

    def seconds_of(self) -> dict[int, float]:
        """Client -> seconds of its round, with the steps that were taken before."""
        return {one.client: self.pace * one.local_steps for one in self.instructions}

    def steps_by(self, now: float) -> int:
        """Steps of all clients that are done by then."""
        whole = sum(self.steps)
        passed = int((now - self.begun) / self.pace + 1e-9) if self.pace else whole
        return max(0, min(whole, passed))

    def done_by(self, now: float, segment: int) -> dict[int, Done]:
        """What is kept of it by then, by client.

        Args:
            segment: steps after which a client's state is saved.
        """
        left, found = self.steps_by(now), {}
        for one, steps in zip(self.instructions, self.steps, strict=True):
            taken = min(left, steps)
            left -= taken
            before = one.local_steps - steps
            kept = before + (taken if taken == steps else taken // segment * segment)
            found[one.client] = Done(one.round, one.base_digest, kept)
        return found


def steps_left(one: InstructionFacts, done: Mapping[int, Done]) -> int:
    """Steps of an instruction that a client has not behind it."""
    kept = done.get(one.client)
    if kept is None or (kept.round, kept.base) != (one.round, one.base_digest):
        return one.local_steps
    return one.local_steps - kept.steps


def steps_ahead(
    instructions: Sequence[InstructionFacts], left: Sequence[int], spare: float, pace: float
) -> tuple[list[int], float]:
    """Steps of each instruction that were begun while it was on its way (`fl.overlap`): a node goes
    ahead with the client that it trains first. And seconds until the last of them is done.

    Args:
        left: steps of each that are not done; one that has been begun before has those behind it.
        spare: seconds since the node's last training.
        pace: seconds of a step.
    """
    first, rest = instructions[0], instructions[1:]
    may_go = first.ahead if left[0] == first.local_steps else 0
    begun = min(math.ceil(spare / pace - 1e-9), may_go, first.local_steps)
    return [begun, *(0 for _ in rest)], max(0.0, begun * pace - spare)
