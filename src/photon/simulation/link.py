"""A link on virtual time: what is sent to a node arrives, is answered, and comes back as events."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from photon.core.seeds import generator
from photon.errors import RoundFailed
from photon.server.link import Answer
from photon.server.link import Link as ServersLink
from photon.simulation.ledger import Ledger, State
from photon.simulation.links import Links, Place
from photon.simulation.nodes import Nodes
from photon.simulation.progress import Done, Task, steps_ahead, steps_left
from photon.simulation.timeline import Timeline
from photon.simulation.transfer import Junction, Road
from photon.wire.buffers import Buffers
from photon.wire.messages import Cancel, Get, Put, Request, Train, unpack_request

LONGEST_SILENCE = 86_400.0
"""Virtual seconds in which nothing is under way, after which nobody waits any more."""
SHARE = 1e-3
"""Of a silence, for which nobody looks whether to go on waiting."""


@dataclass(slots=True, eq=False)
class Site:
    """A node in virtual time.

    Attributes:
        down, up: the way to it and back.
        lives: how often it has begun; what was meant for an earlier life comes to nothing.
        awaited: messages whose answers the server waits for.
        task: what it trains; it ends at the moment that was planned, or never.
        done: by client: what is kept of its last round.
        trained_at: when its last training ended.
        trainings: how often it has begun one.
    """

    number: int
    place: Place
    down: Road
    up: Road
    is_here: bool = True
    lives: int = 0
    awaited: set[str] = field(default_factory=set)
    task: Task | None = None
    done: dict[int, Done] = field(default_factory=dict)
    trained_at: float = math.inf
    trainings: int = 0


class VirtualLink(ServersLink):
    """Delivers messages to nodes of this process; see `server.link.Link`.

    Args:
        seed: of everything that chance decides.
        segment: steps after which a node saves the state of a training.
        tokens: of a step.
    """

    def __init__(
        self,
        links: Links,
        places: Sequence[Place],
        nodes: Nodes,
        timeline: Timeline[Answer],
        ledger: Ledger,
        *,
        seed: int,
        segment: int,
        tokens: int,
    ) -> None:
        self.links, self.nodes, self.ledger = links, nodes, ledger
        self.timeline, self.seed, self.segment, self.tokens = timeline, seed, segment, tokens
        down, up = Junction(links.server.up, timeline), Junction(links.server.down, timeline)
        made = (_site(n, place, links, seed, down, up) for n, place in enumerate(places))
        self._sites = {site.place.name: site for site in made}
        self._known = dict.fromkeys(self._sites)
        self._count = itertools.count(1)
        self._silent_since = self._answered = 0.0
        for site in self._sites.values():
            self._plan_failure(site)

    def addresses(self) -> list[str]:
        return list(self._known)

    def send(self, address: str, message: Buffers) -> str:
        name, site, now = str(next(self._count)), self._sites[address], self.timeline()
        site.awaited.add(name)
        if not site.is_here:
            self.ledger.owe(address, now)
            lost = partial(self._lose, site, name)
            self.timeline.at(now + self.links.noticed_after, lost)
            return name
        request = unpack_request(message)
        if isinstance(request, Train | Put):
            asked_for = request.round if isinstance(request, Train) else None
            self.ledger.turn(address, "download", now, asked_for)
        elif isinstance(request, Get):
            self.ledger.turn(address, "upload", now)
        arriving = partial(self._arrive, site, site.lives, name, message, request)
        site.down.send(message.size, arriving)
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        timeline = self.timeline
        timeline.stop()
        self._end_if_nothing_comes()
        until = timeline.now + self._patience(timeout)
        while (answer := timeline.until(until)) is not None:
            timeline.go_on()
            try:
                yield answer
            finally:
                del answer
                timeline.stop()
            until = self._answered = timeline.now
        timeline.go_on()

    def _patience(self, seconds: float) -> float:
        """More than a server's seconds in a long silence, of which every look would take real time;
        but no event passes by unseen.
        """
        now = self.timeline.now
        longer = min(SHARE * (now - self._answered), self.timeline.next - now)
        return max(seconds, longer) if seconds else 0.0

    def close(self) -> None:
        self.nodes.close()

    def _end_if_nothing_comes(self) -> None:
        if not self.timeline.is_empty:
            self._silent_since = self.timeline.now
        if self.timeline.now - self._silent_since > LONGEST_SILENCE:
            raise RoundFailed(
                f"nothing is under way in the simulation, and nobody will come any more; it has "
                f"waited for {LONGEST_SILENCE:.0f} of its seconds"
            )

    def _arrive(
        self, site: Site, life: int, name: str, message: Buffers, request: Request
    ) -> Answer | None:
        if site.lives != life:
            return None  # of which the server will hear
        if isinstance(request, Cancel | Train) and site.task is not None:
            self._account(site, site.task)
            self.ledger.turn(site.place.name, "idle", self.timeline.now)
        if isinstance(request, Train):
            self._begin(site, name, message, request)
        else:
            self._leave(site, name, self.nodes.answer(site.place, message))
        return None

    def _begin(self, site: Site, name: str, message: Buffers, request: Train) -> None:
        now, group, orders = self.timeline.now, site.place.group, request.instructions
        left = [steps_left(one, site.done) for one in orders]
        answer = None
        if group.step_seconds == "measured":
            begun = time.monotonic()
            answer = self.nodes.answer(site.place, message)
            pace = (time.monotonic() - begun) / max(1, sum(left))
        else:
            draw = generator(self.seed, "pace", site.number, site.trainings).random()
            pace = group.step_seconds * (1 + group.step_jitter * (2 * draw - 1))
        ahead, rest = steps_ahead(orders, left, max(0.0, now - site.trained_at), pace)
        steps = [min(n, one.local_steps - a) for n, one, a in zip(left, orders, ahead, strict=True)]
        site.trainings += 1
        site.task = task = Task(orders, now + rest + group.round_seconds, pace, steps)
        self.ledger.turn(site.place.name, "train" if rest else "node", now)
        if rest:
            self.timeline.at(now + rest, partial(self._turn, site, task, "node"))
        self.timeline.at(task.begun, partial(self._turn, site, task, "train"))
        if any(ahead):
            self.ledger.trained_ahead(site.place.name, pace * sum(ahead) - rest)
            self.ledger.tokens += self.tokens * sum(ahead)
        end = partial(self._end, site, task, name, message, answer)
        self.timeline.at(task.end, end)

    def _turn(self, site: Site, task: Task, state: State) -> None:
        if site.task is task:
            self.ledger.turn(site.place.name, state, self.timeline.now)

    def _end(
        self, site: Site, task: Task, name: str, message: Buffers, answer: Buffers | None
    ) -> None:
        if site.task is not task:
            return  # it was broken off
        if answer is None:
            answer = self.nodes.answer(site.place, message, task.seconds_of())
        self._account(site, task)
        self.ledger.turn(site.place.name, "upload", self.timeline.now)
        self._leave(site, name, answer)

    def _account(self, site: Site, task: Task) -> None:
        """A training ends, or is broken off: what is done stays done."""
        now = self.timeline.now
        self.ledger.tokens += self.tokens * task.steps_by(now)
        site.done |= task.done_by(now, self.segment)
        site.task, site.trained_at = None, now

    @property
    def tokens_under_way(self) -> int:
        """Trained on by now in what has not ended."""
        tasks = [site.task for site in self._sites.values() if site.task is not None]
        return self.tokens * sum(task.steps_by(self.timeline.now) for task in tasks)

    def _leave(self, site: Site, name: str, answer: Buffers) -> None:
        """An answer sets out."""
        coming = partial(self._come, site, site.lives, name, answer)
        site.up.send(answer.size, coming)

    def _come(self, site: Site, life: int, name: str, answer: Buffers) -> Answer | None:
        if site.lives != life:
            return None
        site.awaited.discard(name)
        if site.task is None:
            self.ledger.turn(site.place.name, "idle", self.timeline.now)
        return name, answer

    def _lose(self, site: Site, name: str) -> Answer | None:
        if name not in site.awaited:
            return None
        site.awaited.discard(name)
        return name, None

    def _plan_failure(self, site: Site) -> None:
        every = site.place.group.failures_every
        if every is not None:
            after = generator(self.seed, "failure", site.number, site.lives).exponential(every)
            self.timeline.at(self.timeline.now + after, partial(self._fail, site))

    def _fail(self, site: Site) -> None:
        """A node's process dies; the server hears of it later."""
        if site.task is not None:
            self._account(site, site.task)
        now, wait = self.timeline.now, self.links.noticed_after
        site.trained_at = math.inf  # what was done ahead was in its memory
        site.is_here, site.lives = False, site.lives + 1
        self.nodes.forget(site.place)
        self.ledger.turn(site.place.name, "away", now)
        if site.awaited:
            self.ledger.owe(site.place.name, now)
        for name in sorted(site.awaited, key=int):
            self.timeline.at(now + wait, partial(self._lose, site, name))
        self.timeline.at(now + wait, partial(self._notice, site))
        self.timeline.at(now + site.place.group.back_after, partial(self._return, site))

    def _notice(self, site: Site) -> None:
        if not site.is_here:
            self._known.pop(site.place.name, None)

    def _return(self, site: Site) -> None:
        site.is_here = True
        self._known[site.place.name] = None
        self.ledger.turn(site.place.name, "idle", self.timeline.now)
        self._plan_failure(site)


def _site(number: int, place: Place, links: Links, seed: int, down: Junction, up: Junction) -> Site:
    ends = (links.server, place.group)
    return Site(
        number,
        place,
        Road(down, place.group.down, ends, (seed, "down", number)),
        Road(up, place.group.up, ends, (seed, "up", number)),
    )
