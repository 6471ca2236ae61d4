"""Extension points: what some values of a configuration stand for; each is one file and one entry.

An entry says where a thing lives, as `module:name`, so that a configuration is read, and its
choices are told, without importing any of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Outer:
    """An outer optimizer.

    Attributes:
        make: function that gives it; see `photon.core.outer`.
        arguments: keys of `fl.strategy_kwargs` that it takes, with their defaults.
        gathers: whether it can be asked to step by parts of a round, as asynchronous merges are;
            `make` then takes `gathers=True`.
    """

    make: str
    arguments: Mapping[str, float]
    gathers: bool = False


_MOMENTUM = {"server_learning_rate": 0.7, "server_momentum": 0.7}
_ADAM = {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}

OUTER_OPTIMIZERS: dict[str, Outer] = {
    "FEDAVG": Outer("photon.core.outer:sgd", {"server_learning_rate": 1.0}, True),
    "FEDAVGM": Outer("photon.core.outer:fedavgm", _MOMENTUM, True),
    "NESTEROV": Outer("photon.core.outer:nesterov", _MOMENTUM, True),
    "FEDMOM": Outer("photon.core.outer:nesterov", _MOMENTUM, True),
    "FEDADAGRAD": Outer("photon.core.outer:fedadagrad", {"eta": 0.01, "beta_1": 0.0, "tau": 1e-3}),
    "FEDADAM": Outer("photon.core.outer:fedadam", _ADAM),
    "FEDYOGI": Outer("photon.core.outer:fedyogi", _ADAM),
}
"""By `fl.strategy_name`; the adaptive ones have the defaults of Reddi et al. 2020."""


@dataclass(frozen=True, slots=True)
class Aggregation:
    """What the pseudo-gradients of a round are merged into.

    Attributes:
        make: a `photon.core.aggregate.Mixing`, or a function of whole numbers that gives one.
        arguments: those numbers by name, with their defaults, in the order in which they follow
            the name: `krum:25/50`.
        withstands: the clients that may lie without moving the result further than the others do.
        about: what it is, and what it costs.
        most: the largest that an argument can be, by name.
    """

    make: str
    arguments: Mapping[str, int] = field(default_factory=dict)
    withstands: str = "none"
    about: str = ""
    most: Mapping[str, int] = field(default_factory=dict)


AGGREGATIONS: dict[str, Aggregation] = {
    "mean": Aggregation(
        "photon.core.aggregate:plain",
        about="the mean, by tokens; what is far too large has been refused before",
    ),
    "rda": Aggregation(
        "photon.core.aggregate:radial",
        about="the means of directions and of lengths apart, tensor by tensor; embeddings: the "
        "mean",
    ),
    "normed": Aggregation(
        "photon.core.aggregate:normed", about="the mean, as long as they are in the mean"
    ),
    "median": Aggregation(
        "photon.core.robust.elementwise:median",
        withstands="fewer than half",
        about="of each number the middle one; what only few clients train, such as the embeddings "
        "of rare tokens, hardly moves",
    ),
    "trimmed_mean": Aggregation(
        "photon.core.robust.elementwise:trimmed_mean",
        {"cut": 25},
        "cut %",
        "of each number the mean without that many percent of the clients at each end",
        {"cut": 49},
    ),
    "centred_clip": Aggregation(
        "photon.core.robust.whole:centred_clip",
        {"radius": 100, "iterations": 10},
        "fewer than half",
        "nobody pulls further than radius percent of the median distance; each still pulls that "
        "far",
        {"radius": 1000, "iterations": 100},
    ),
    "krum": Aggregation(
        "photon.core.robust.whole:krum",
        {"bad": 25, "kept": 50},
        "bad %, two fewer than half",
        "the mean of the kept percent that lie nearest to the others; updates of nothing, or that "
        "are copies of each other, lie near",
        {"bad": 49, "kept": 100},
    ),
}
"""By what `fl.aggregation` begins with."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A codec, as a rung of the ladder of compression.

    Attributes:
        make: a `photon.core.codec.Codec`, or a function of whole numbers that gives one.
        arguments: those numbers by name, with their defaults, in the order in which they follow
            the codec's name: `topk:64/4096`.
        bits: per parameter, with the defaults; None: not said.
        about: what it does, and what was measured of it (docs/results.md).
    """

    make: str
    arguments: Mapping[str, int] = field(default_factory=dict)
    bits: float | None = None
    about: str = ""


CODECS: dict[str, Rung] = {
    "fp32": Rung("photon.core.codec:FP32", bits=32.0, about="exact"),
    "bf16": Rung("photon.core.codec:BF16", bits=16.0, about="rounds to nearest"),
    "fp16": Rung("photon.core.codec:FP16", bits=16.0, about="rounds to nearest, up to 65504"),
    "int8": Rung(
        "photon.codecs.blocks:int8",
        {"block": 64},
        8.125,
        "255 even levels a block, one of them zero; of moments nothing measurable is lost",
    ),
    "int4": Rung(
        "photon.codecs.blocks:int4",
        {"block": 64},
        4.125,
        "16 even levels a block; both ways, nothing measurable is lost",
    ),
    "e3m0": Rung(
        "photon.codecs.blocks:e3m0",
        {"block": 64},
        4.125,
        "8 powers of two and signs; loss not measured",
    ),
    "int2": Rung(
        "photon.codecs.blocks:int2",
        {"block": 64},
        2.125,
        "2 sizes and signs; loss not measured, uniform has less error at fewer bits",
    ),
    "int1": Rung(
        "photon.codecs.blocks:int1",
        {"block": 64},
        1.125,
        "signs, a mean size a block; up +2.2 % loss, without feedback +4.3 %",
    ),
    "uniform": Rung(
        "photon.codecs.uniform:uniform",
        {"step": 150, "levels": 5},
        1.6,
        "even levels, by hundredths of the root mean square, entropy-coded; both ways 50/15 +0.2 % "
        "loss, up 107/7 and down 75/11 +0.8 %",
    ),
    "topk": Rung(
        "photon.codecs.sparse:topk",
        {"kept": 64, "block": 4096, "bits": 2},
        0.1499,
        "the largest of each block, in 2 bits or 1, and their places; for runs of hundreds of "
        "rounds, and +10.6 % loss even there (300/4096/1 up, 480/4096/1 down)",
    ),
}
"""By what `fl.compression.upload`, `.download` and `.moments` begin with."""

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


def codec_parts(text: str) -> tuple[str, list[int]]:
    """Name and arguments of a codec, as `topk:64/4096` gives them; defaults are filled in.

    Raises:
        ValueError: no such codec, or not its arguments.
    """
    return _parts("codec", text, CODECS)


def _parts(
    kind: str, text: str, table: Mapping[str, Rung] | Mapping[str, Aggregation]
) -> tuple[str, list[int]]:
    name, colon, given = text.partition(":")
    takes = table[known(kind, name, table)].arguments
    numbers = given.split("/") if colon else []
    if len(numbers) > len(takes) or not all(re.fullmatch(r"[1-9]\d{0,8}", n) for n in numbers):
        shape = (
            f"{name}:{'/'.join(takes)}, whole numbers from 1 to 999999999"
            if takes
            else f"{name} alone"
        )
        raise ValueError(f"{kind} {text!r}: expected {shape}")
    return name, [*map(int, numbers), *list(takes.values())[len(numbers) :]]


def codec(text: str) -> Any:
    """The `photon.core.codec.Codec` of that name, with its arguments.

    Raises:
        ValueError: as `codec_parts`, or numbers that the codec cannot do with.
    """
    name, numbers = codec_parts(text)
    found = find(CODECS[name].make)
    return found(*numbers) if CODECS[name].arguments else found


def aggregation_parts(text: str) -> tuple[str, list[int]]:
    """Name and arguments of an aggregation, as `krum:25/50` gives them; defaults are filled in.

    Raises:
        ValueError: no such aggregation, or not its arguments.
    """
    name, numbers = _parts("aggregation", text, AGGREGATIONS)
    entry = AGGREGATIONS[name]
    for argument, number in zip(entry.arguments, numbers, strict=True):
        if number > (most := entry.most.get(argument, number)):
            raise ValueError(f"aggregation {text!r}: {argument} is {number}, at most {most}")
    return name, numbers


def aggregation(text: str) -> Any:
    """The `photon.core.aggregate.Mixing` of that name, with its arguments.

    Raises:
        ValueError: as `aggregation_parts`.
    """
    name, numbers = aggregation_parts(text)
    found = find(AGGREGATIONS[name].make)
    return found(*numbers) if AGGREGATIONS[name].arguments else found


def shortest(
    parts: tuple[str, list[int]], table: Mapping[str, Rung] | Mapping[str, Aggregation]
) -> str:
    """How a name with these arguments is given without those at the end that are the defaults."""
    name, numbers = parts
    usual, kept = list(table[name].arguments.values()), len(numbers)
    while kept and numbers[kept - 1] == usual[kept - 1]:
        kept -= 1
    return f"{name}:{'/'.join(map(str, numbers[:kept]))}" if kept else name


def spelled(name: str, arguments: Mapping[str, int]) -> str:
    """A name with its arguments, as they are given."""
    return f"{name}:{'/'.join(map(str, arguments.values()))}" if arguments else name
