"""links.yaml: what a simulation supposes of sites, of their links, and of the server."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from photon.config.base import Written
from photon.errors import ConfigError
from photon.files import parse_yaml
from photon.machine.quantity import parse_quantity
from photon.wire.enrolment import format_clients, parse_clients

SLOWEST, FASTEST = 125.0, 1e15
LONGEST_WAY = 60.0
"""Of a message, in seconds. With more a node does not even join, and the link is not blamed."""
LONGEST, SHORTEST_STEP = 1e7, 1e-6
"""Seconds of anything else."""


def _rate(value: Any) -> Any:
    """Bytes a second of a text; 2e6 is one for YAML."""
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return parse_quantity(value)


def _clients(value: Any) -> Any:
    """Numbers of a text as `0-3,7`."""
    try:
        return parse_clients(str(value)) if isinstance(value, str | int) else value
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _within(rate: float) -> float:
    if SLOWEST <= rate <= FASTEST or rate == math.inf:
        return rate
    raise ValueError("expected 1kbit to 8000Tbit, or .inf")


Rate = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_rate), AfterValidator(_within)]
"""Bytes a second; as text with a unit: `20Mbit`."""
Way = Annotated[float, Field(ge=0, le=LONGEST_WAY)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST)]
StepSeconds = Annotated[float, Field(ge=SHORTEST_STEP, le=LONGEST)]
Share = Annotated[float, Field(ge=0, lt=1)]
Measured = Literal["measured"]


class Link(Written):
    """One end's link to the others.

    Attributes:
        up, down: from it and to it.
        latency: one way.
        jitter: added to the latency of a message, up to so much, each value alike.
        loss: probability that a piece of 64 KiB comes only when it is sent again.
    """

    up: Rate = math.inf
    down: Rate = math.inf
    latency: Way = 0.0
    jitter: Way = 0.0
    loss: Share = 0.0


class Group(Link):
    """Clients whose nodes are alike; each node has a link of its own, and one device.

    Attributes:
        clients: their numbers.
        per_node: clients of one node.
        step_seconds: of an optimizer step; or what it takes here.
        round_seconds: of a round beside its steps: to load, encode and save.
        step_jitter: part by which the steps of a client's round are faster or slower.
        failures_every: mean seconds between two failures of a node; none: it never fails.
        back_after: seconds that a node which has failed is away.
    """

    clients: Annotated[list[int], Field(min_length=1), BeforeValidator(_clients)]
    per_node: int = Field(default=1, ge=1)
    step_seconds: StepSeconds | Measured = "measured"
    round_seconds: Seconds = 0.0
    step_jitter: Share = 0.0
    failures_every: StepSeconds | None = None
    back_after: Seconds = 60.0

    @field_validator("clients")
    @classmethod
    def _each_once(cls, clients: list[int]) -> list[int]:
        if twice := [client for client, count in Counter(clients).items() if count > 1]:
            raise ValueError(f"client {twice[0]} is there twice")
        return clients

    @model_validator(mode="after")
    def _failures_need_seconds(self) -> Group:
        if self.failures_every is not None and self.step_seconds == "measured":
            raise ValueError("failures_every needs step_seconds: when a step ends must be known")
        return self


class Links(Written):
    """The file.

    Attributes:
        trainer: a stand-in takes the place of the model's arithmetic: updates are drawn.
        seed: of all that is drawn; none: the run's.
        server: its own link, which all messages share fairly.
        server_seconds: from the last update of a round to the next instructions.
        noticed_after: seconds after which the server knows that a node has gone.
    """

    groups: list[Group] = Field(min_length=1)
    trainer: Literal["real", "stand-in"] = "real"
    seed: int | None = None
    server: Link = Link()
    server_seconds: Seconds | Measured = 0.0
    noticed_after: Seconds = 10.0

    @model_validator(mode="after")
    def _consistent(self) -> Links:
        seen: set[int] = set()
        for group in self.groups:
            if twice := seen & set(group.clients):
                raise ValueError(f"client {min(twice)} is in two groups")
            seen |= set(group.clients)
            if self.trainer == "stand-in" and group.step_seconds == "measured":
                raise ValueError("a stand-in for training takes no time: give step_seconds")
        return self


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a simulation: its name, its clients, what it is like."""

    name: str
    clients: tuple[int, ...]
    group: Group


def read_links(path: Path, *, stand_in: bool = False) -> Links:
    """Read a file of links.

    Args:
        stand_in: the trainer is one, whatever the file says.

    Raises:
        ConfigError: unreadable; or naming the key, what was wrong and what was given.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{path}: no YAML: {told}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: no links: give keys, as in `groups: [{{clients: 0-7}}]`")
    try:
        return Links.model_validate({**values, **({"trainer": "stand-in"} if stand_in else {})})
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    found = error.errors()  # a key that is not there is why another one is missing
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    words = (str(part) for part in first["loc"] if part not in ("float", "literal['measured']"))
    key = ".".join(word for word in words if not word.startswith("constrained"))
    if first["type"] == "extra_forbidden":
        section = {"groups": Group, "server": Link}.get(str(first["loc"][0]), Links)
        section = section if len(first["loc"]) > 1 else Links
        return f"{key}: no such key; there are {', '.join(section.model_fields)}"
    if first["type"] == "missing":
        return f"{key}: is missing"
    reason = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    is_told = isinstance(given, bool) or (isinstance(given, str) and repr(given) in reason)
    shown = "" if is_told or isinstance(given, dict | list) else f", got {given!r}"
    return f"{key}: {reason}{shown}" if key else f"{reason}{shown}"


def places_of(links: Links, population: int, path: Path) -> list[Place]:
    """The nodes of a federation of so many clients.

    Raises:
        ConfigError: a client is in no group, or there is none of that number.
    """
    given = {client for group in links.groups for client in group.clients}
    if lacking := set(range(population)) - given:
        raise ConfigError(
            f"{path}: clients {format_clients(lacking)} are in no group (fl.n_total_clients="
            f"{population})"
        )
    if beyond := given - set(range(population)):
        raise ConfigError(
            f"{path}: groups have clients {format_clients(beyond)}; there are 0 to "
            f"{population - 1} (fl.n_total_clients={population})"
        )
    return [place for group in links.groups for place in _nodes(group)]


def nodes_needed(asked: int | None, nodes: int, path: Path) -> int:
    """How many of the nodes have to be there when a run begins.

    Args:
        asked: `photon.n_nodes`, if it is given.

    Raises:
        ConfigError: more than there are.
    """
    if asked is not None and asked > nodes:
        raise ConfigError(f"photon.n_nodes={asked}: {path} has {nodes} nodes; leave the key out")
    return nodes if asked is None else asked


def _nodes(group: Group) -> Iterator[Place]:
    clients = sorted(group.clients)
    for start in range(0, len(clients), group.per_node):
        own = tuple(clients[start : start + group.per_node])
        yield Place(f"node-{own[0]}", own, group)
