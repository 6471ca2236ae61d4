"""What a run will cost before it starts: bytes, seconds, utilisation, disk.

The model is that of the paper (*Photon*, arXiv:2411.02908, section 4.3 and appendix): a round is
local compute, then an exchange whose length depends on the topology and on the slowest link.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Topology = Literal["server", "all_reduce", "ring"]
FLOOR = 2.0
"""Seconds that a round over Flower takes beside training and transfers, at the most as a rule: of
two nodes on a quiet machine it took 0.7 to 1.2, and 2.8 now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """How fast a site is connected to the others.

    Attributes:
        up, down: bytes per second.
        latency: seconds, one way.
    """

    up: float
    down: float
    latency: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One exchange among participants that wait for each other.

    Attributes:
        topology: `server` (each sends to a server and receives from it), `all_reduce` (each sends
            to all) or `ring` (reduce-scatter and all-gather around a ring).
        participants: K.
        bytes_up, bytes_down: of one participant; only a server's way down is of another size.
        link: of each participant, or the slowest one's.
        server: the server's link; None: never the bottleneck.
        floor: seconds that an exchange of nothing takes.
    """

    topology: Topology
    participants: int
    bytes_up: float
    bytes_down: float
    link: LinkSpeed
    server: LinkSpeed | None = None
    floor: float = 0.0

    @property
    def seconds(self) -> float:
        """Time from the last local step of a round to the first one of the next.

        With S bytes and B bytes/s: server K S / B each way where its link is the bottleneck, all
        reduce (K - 1) S / B, ring 2 S (K - 1) / (K B).
        """
        k, link = self.participants, self.link
        narrow = min(link.up, link.down)
        if self.topology == "server":
            server = self.server or LinkSpeed(up=math.inf, down=math.inf)
            down = max(self.bytes_down / link.down, k * self.bytes_down / server.up)
            up = max(self.bytes_up / link.up, k * self.bytes_up / server.down)
            return self.floor + down + up + 2 * (link.latency + server.latency)
        if self.topology == "all_reduce":
            return self.floor + (k - 1) * self.bytes_up / narrow + link.latency
        steps = 2 * (k - 1)
        return self.floor + steps * (self.bytes_up / k / narrow + link.latency)

    @property
    def total_bytes(self) -> float:
        """Sent by all participants and the server in one exchange."""
        k = self.participants
        if self.topology == "server":
            return k * (self.bytes_up + self.bytes_down)
        return self.bytes_up * (k - 1) * (k if self.topology == "all_reduce" else 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handling:
    """What a round moves within machines, while its devices stand still.

    Attributes:
        load, encode: bytes that a client moves in memory before and after its training.
        write: bytes that it brings onto the disk, while the device trains on.
        close: bytes that the server moves in memory for the mean, the outer step and the hash.
        memory, disk: bytes per second.
    """

    load: float
    encode: float
    write: float
    close: float
    memory: float
    disk: float

    def seconds(self, compute: float) -> dict[str, float]:
        """By part of a device's time; of writing, what is longer than training."""
        return {
            "load": self.load / self.memory,
            "encode": self.encode / self.memory,
            "write": max(0.0, self.write / self.disk - compute),
            "aggregate": self.close / self.memory,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run takes.

    Attributes:
        compute_seconds, exchange_seconds: of one round; what is overlapped counts as compute.
        handling_seconds: of one round, by part of a device's time.
        round_bytes: of one round, over slow links; first_bytes: of the first one.
    """

    rounds: int
    compute_seconds: float
    exchange_seconds: float
    round_bytes: float
    first_bytes: float
    handling_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def device_seconds(self) -> dict[str, float]:
        """What the time of a device goes into, as records have it."""
        own = {"train": self.compute_seconds, **self.handling_seconds}
        return {**own, "wait": self.exchange_seconds}

    @property
    def still_seconds(self) -> float:
        """Of one round, in which devices do not train."""
        return self.exchange_seconds + sum(self.handling_seconds.values())

    @property
    def round_seconds(self) -> float:
        return self.compute_seconds + self.still_seconds

    @property
    def seconds(self) -> float:
        return self.rounds * self.round_seconds

    @property
    def total_bytes(self) -> float:
        return self.first_bytes + (self.rounds - 1) * self.round_bytes

    @property
    def utilization(self) -> float:
        """Share of the time in which devices compute."""
        return self.compute_seconds / self.round_seconds


def forecast(
    *,
    rounds: int,
    local_steps: int,
    step_seconds: float,
    exchange: Exchange,
    inside: Exchange | None = None,
    handling: Handling | None = None,
    overlap: float = 0.0,
    first_down: float | None = None,
) -> Forecast:
    """Predict a run; data-parallel training is one of a single local step a round.

    Args:
        first_down: bytes that a participant receives in the first round; None: as in the others.
        step_seconds: of one optimizer step of one client.
        inside: exchange within each participant, before the one among them (a sub-federation).
        handling: what is moved within machines; None: nothing.
        overlap: share of the exchange that is hidden behind compute, 0 to 1.
    """
    waited = exchange.seconds + (inside.seconds if inside is not None else 0.0)
    compute = local_steps * step_seconds
    hidden = min(overlap * waited, compute)
    first = exchange if first_down is None else replace(exchange, bytes_down=first_down)
    return Forecast(
        rounds=rounds,
        compute_seconds=compute,
        exchange_seconds=waited - hidden,
        round_bytes=exchange.total_bytes,
        first_bytes=first.total_bytes,
        handling_seconds=handling.seconds(compute) if handling is not None else {},
    )


def hidden_share(waited: float, seconds: float) -> float:
    """Share of an exchange that is hidden behind steps which are taken ahead.

    Args:
        waited: seconds of the exchange.
        seconds: of these steps.
    """
    return min(1.0, seconds / waited) if waited > 0 else 1.0


def local_steps_for(utilization: float, reached: Callable[[int], float]) -> int:
    """Fewest local steps with which devices compute for at least that share of the time.

    Args:
        reached: that share with so many steps; the more there are, the higher it is.

    Raises:
        ValueError: the share is not between 0 and 1.
    """
    if not 0 < utilization < 1:
        raise ValueError(f"a utilization is between 0 and 1, not {utilization:g}")
    few, enough = 0, 1
    while reached(enough) < utilization:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if reached(middle) >= utilization else (middle, enough)
    return enough


def step_seconds(
    flops_per_token: float, tokens: float, peak_flops: float, mfu: float, devices: int = 1
) -> float:
    """Seconds of one optimizer step at a share `mfu` of the devices' peak."""
    return flops_per_token * tokens / (peak_flops * mfu * devices)


def server_disk(
    parameters: int, moments: int, payload: float, clients: int, checkpoints: int
) -> float:
    """Most bytes on a server's disk: checkpoints kept, one being written, a round's updates."""
    return (checkpoints + 1) * 4 * parameters * (1 + moments) + (clients + 1) * payload
