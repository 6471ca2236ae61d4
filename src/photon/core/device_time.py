"""Where the time of a round's devices went: into training, into what surrounds it, or nowhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

OF_CLIENTS = {
    "train": "train_seconds",
    "load": "load_seconds",
    "encode": "encode_seconds",
    "write": "write_seconds",
    "validate": "validate_seconds",
}
"""Part of a device's time -> the metric in which a client says it."""
OF_SERVER = ("aggregate", "validate", "commit")
"""Phases of a server in which all devices stand still."""


def device_seconds(
    clients: Iterable[Mapping[str, float]],
    phases: Mapping[str, float],
    seconds: float,
    devices: int,
    most: float | None = None,
) -> dict[str, float]:
    """What the time of a device went into, averaged over devices.

    What clients say is not trusted: of each number that counts which may be true, and of all
    together no more than the round had room for.

    Args:
        clients: metrics of each.
        phases: the server's, in seconds.
        seconds: from the end of the last round to the end of this one.
        most: seconds that one number may be; None: those of the round. It is more where clients
            are joined, whose seconds add up, or began in an earlier round.

    Returns:
        Seconds by part, which sum to those of the round; `wait` is what nothing else explains.
    """
    told, most = list(clients), seconds if most is None else most
    own = {
        part: sum(_within(one.get(key, 0.0), most) for one in told) / devices
        for part, key in OF_CLIENTS.items()
    }
    server = {name: phases.get(name, 0.0) for name in OF_SERVER}
    room = max(0.0, seconds - sum(server.values()))
    share = min(1.0, room / max(sum(own.values()), 1e-9))
    own = {part: value * share for part, value in own.items()}
    wait = max(0.0, room - sum(own.values()))
    return {**own, "wait": wait, **server, "validate": server["validate"] + own["validate"]}


def _within(value: float, most: float) -> float:
    return min(max(value, 0.0), most) if math.isfinite(value) else 0.0
