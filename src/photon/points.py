"""Extension points: what some values of a configuration stand for; each is one file and one entry.

An entry says where a thing lives, as `module:name`, so that a configuration is read, and its
choices are told, without importing any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Outer:
    """An outer optimizer.

    Attributes:
        make: function that gives it; see `photon.core.outer`.
        arguments: keys of `fl.strategy_kwargs` that it takes, with their defaults.
    """

    make: str
    arguments: Mapping[str, float]


_MOMENTUM = {"server_learning_rate": 0.7, "server_momentum": 0.7}
_ADAM = {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}

OUTER_OPTIMIZERS: dict[str, Outer] = {
    "FEDAVG": Outer("photon.core.outer:sgd", {"server_learning_rate": 1.0}),
    "FEDAVGM": Outer("photon.core.outer:fedavgm", _MOMENTUM),
    "NESTEROV": Outer("photon.core.outer:nesterov", _MOMENTUM),
    "FEDMOM": Outer("photon.core.outer:nesterov", _MOMENTUM),
    "FEDADAGRAD": Outer("photon.core.outer:fedadagrad", {"eta": 0.01, "beta_1": 0.0, "tau": 1e-3}),
    "FEDADAM": Outer("photon.core.outer:fedadam", _ADAM),
    "FEDYOGI": Outer("photon.core.outer:fedyogi", _ADAM),
}
"""By `fl.strategy_name`; the adaptive ones have the defaults of Reddi et al. 2020."""

CODECS = {"bf16": "photon.core.codec:BF16", "fp32": "photon.core.codec:FP32"}
"""A `photon.core.codec.Codec` by `fl.compression`."""

TRANSPORTS = {
    "inline": "photon.wire.inline:INLINE",
    "shm": "photon.wire.shared_memory:SHARED_MEMORY",
    "s3": "photon.wire.object_store:OBJECT_STORE",
}
"""A `photon.wire.transport.Transport` by `photon.transport`."""


def find(where: str) -> Any:
    """What lives at `module:name`.

    Raises:
        ImportError, AttributeError: nothing does.
    """
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)


def known(kind: str, name: str, table: Mapping[str, object]) -> str:
    """The name, if a table has it.

    Raises:
        ValueError: it has not; the message names those that it has.
    """
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}")
    return name
