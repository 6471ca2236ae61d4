"""An open round as its loop sees it: who has been asked, what has come, who is missing."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from photon.core import policy
from photon.core.gate import Verdict, check, examined, promised
from photon.core.messages import Failure, RoundPlan, ServerState, Update
from photon.machine.clock import SYSTEM, Clock
from photon.server.masked import promise


def _judge() -> ThreadPoolExecutor:
    """One thread beside the one that drives the device, which computes alone.

    If it had OpenMP's threads too, there would be more threads than cores. OpenMP's then sleep as
    they wait, and each operation of the other thread would begin a millisecond late.
    """
    cores = torch.get_num_threads()
    judge = ThreadPoolExecutor(1, "judge")
    judge.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(cores)  # of this thread, and of those that are started later
    return judge


@dataclass(slots=True)
class Delivery:
    """What is known of a round while clients train.

    Updates are examined while the next ones are made.

    Attributes:
        state: before the round.
        asking: called before clients are asked, before the first of them is asked again, before
            the first is asked a third time, and so on.
        waiting: clients that nobody trains yet.
        asked: all that have been asked.
        updates: in the order in which they came, those that are late for earlier rounds too.
        came: client -> what is to be said of what it sent for this round.
        failed: client -> why it has no update.
        unmasked: what has come of clients whose updates are to be masked: on one machine all of it.
        sound: clients whose updates an asynchronous merge would take, late ones too.
        begun: wall clock, in seconds, for people; `clock` is what decides.
    """

    plan: RoundPlan
    state: ServerState
    rules: policy.Rules
    clock: Clock = SYSTEM
    asking: Callable[[], None] = lambda: None
    waiting: deque[int] = field(default_factory=deque)
    asked: list[int] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    came: dict[int, Future[Verdict]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    unmasked: dict[int, Update] = field(default_factory=dict)
    sound: int = 0
    begun: float = field(default_factory=time.time)
    _first: float = math.inf
    _begun: float = field(init=False)
    _tries: Counter[int] = field(default_factory=Counter)
    _verdicts: list[Future[Verdict]] = field(default_factory=list)
    _judge: ThreadPoolExecutor = field(default_factory=_judge)

    def __post_init__(self) -> None:
        self._begun = self.clock()
        self.asking()
        self._ask()

    def take(self, arrival: Update | Failure) -> None:
        """Note what has come; whoever stands in for a client that is lost is asked."""
        if isinstance(arrival, Failure):
            self.failed[arrival.client] = arrival.reason
            if arrival.client in self.waiting:  # its engine will try it again
                self._note_again(arrival.client)
        else:
            if self.rules.masked:
                self.unmasked[arrival.client] = arrival
                arrival = promise(arrival)
            judge = promised if self.rules.masked else examined
            verdict = self._judge.submit(judge, arrival, self.plan, self.state)
            self.updates.append(arrival)
            self._verdicts.append(verdict)
            if arrival.round not in self.plan.bases:  # or else it is late for that one
                self.came |= dict.fromkeys(arrival.clients, verdict)
            if self.rules.merging is not None:
                self._note_sound()
        self._ask()

    @property
    def arrived(self) -> dict[int, bool]:
        """Client -> whether what it sent for this round is sound.

        An update that is still being examined counts as sound. Where there are spares it is waited
        for, since one of them would be asked in the place of a client whose update is not.
        """
        knows = bool(self.plan.spares)
        return {
            client: not (knows or verdict.done()) or verdict.result().reason is None
            for client, verdict in self.came.items()
        }

    @property
    def verdicts(self) -> list[Verdict]:
        """What is to be said of each update for itself."""
        return [verdict.result() for verdict in self._verdicts]

    @property
    def ready(self) -> dict[int, Update]:
        """Client -> what it says of an update that will be masked."""
        sound = zip(self.updates, self.verdicts, strict=True)
        return {u.client: u for u, verdict in sound if verdict.reason is None}

    def take_sum(self, update: Update) -> None:
        """Put the sum of masked updates in the place of what was said of them."""
        refused = [(u, v) for u, v in zip(self.updates, self._verdicts, strict=True)
                   if v.result().reason is not None]  # fmt: skip
        verdict = self._judge.submit(examined, update, self.plan, self.state)
        self.updates = [update, *(one for one, _ in refused)]
        self._verdicts = [verdict, *(one for _, one in refused)]

    def lose(self, lost: Mapping[int, str]) -> None:
        """Note clients that have dropped out after they had trained."""
        self.failed |= lost
        self.came = {c: verdict for c, verdict in self.came.items() if c not in lost}

    def _note_again(self, client: int) -> None:
        most = max(self._tries.values(), default=0)
        self._tries[client] += 1
        if self._tries[client] > most:
            self.asking()

    def _note_sound(self) -> None:
        """Count what will not be refused: an outlier neither closes a merge nor has others wait."""
        ratio = self.rules.max_norm_ratio
        taken, *_ = check(self.state, self.plan, self.updates, self.verdicts, ratio)
        self.sound = sum(len(update.clients) for update in taken)
        if self.sound:
            self._first = min(self._first, self.clock())

    @property
    def is_complete(self) -> bool:
        """Whether as many have come as the round is meant to have."""
        if self.rules.merging is not None:
            return self.sound >= self.rules.merging.buffer
        return len(self.came) >= len(self.plan.members)

    def is_over(self, durations: Sequence[float]) -> bool:
        waited = self.clock() - self._begun
        if self.rules.merging is not None and self.rules.can_be_late:
            since_first = self.clock() - self._first
            return policy.merges(self.sound, since_first, waited, durations, self.rules)
        return policy.closing(self.plan, self.arrived, waited, durations, self.rules) == "close"

    @property
    def missing(self) -> dict[int, str]:
        """Client -> why it has no update, of all that were asked.

        In an asynchronous run whoever still trains will be in a later merge, and is not missing. A
        merge of nothing names all.
        """
        if self.rules.merging is not None and self.sound:
            return {c: why for c, why in self.failed.items() if c not in self.came}
        absent = sorted(set(self.asked) - self.came.keys())
        return {client: self.failed.get(client, "late") for client in absent}

    def _ask(self) -> None:
        lost = set(self.failed)
        if self.plan.spares:
            lost |= {client for client, sound in self.arrived.items() if not sound}
        due, known = policy.asked(self.plan, lost, self.rules), set(self.asked)
        new = [client for client in due if client not in known]
        self.asked += new
        self.waiting += new
