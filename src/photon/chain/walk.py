"""Walks a chain from its first link to its last, and names the first that is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from photon.chain.ledger import FILE, link_in, whole_lines
from photon.chain.link import Entry, Head, Link, entry_fault, parse_link
from photon.errors import ConfigError, PayloadError
from photon.run.checkpoint import list_checkpoints
from photon.wire.enrolment import REGISTER, read_register
from photon.wire.signatures import fingerprint, key_of_certificate, key_of_node


class Check(NamedTuple):
    """What was looked at, and what came of it.

    Attributes:
        verdict: ok, note or fail.
    """

    verdict: str
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """Public keys that are known from elsewhere.

    Attributes:
        servers: the server's, now and before; empty: none is known.
        nodes: those of each node; one that is not enrolled any more is missing.
    """

    servers: frozenset[str] = frozenset()
    nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Known:
        """Those in folders of `photon keys`, or in copies of server.pem and nodes.json alone.

        Raises:
            ConfigError: a file is missing, or is none.
        """
        servers, nodes = set[str](), dict[str, frozenset[str]]()
        for folder in folders:
            servers.add(_server_key(folder / "server.pem"))
            for name, node in (read_register(folder / REGISTER).nodes or {}).items():
                nodes[name] = nodes.get(name, frozenset()) | {key_of_node(node.public_key)}
        return cls(frozenset(servers), nodes)


def _server_key(path: Path) -> str:
    try:
        return key_of_certificate(path.read_bytes())
    except (OSError, PayloadError) as error:
        raise ConfigError(f"{path}: cannot read the server's certificate ({error})") from None


@dataclass(slots=True)
class Walk:
    """The sound part of a chain.

    Attributes:
        links: up to the first broken one, or all.
        pending: how many of the last ones are in a checkpoint only, as a crash leaves them.
        fault: of the first broken link; None: all are sound.
    """

    links: list[Link] = field(default_factory=list)
    pending: int = 0
    fault: str | None = None

    @property
    def by_round(self) -> dict[int, Link]:
        """The link that counts of each round: that of the last commit of it."""
        found: dict[int, Link] = {}
        for link in self.links:
            if link.head.kind == "rewound":
                found = {number: one for number, one in found.items() if number < link.head.round}
            found[link.head.round] = link
        return found


def walk(folder: Path, known: Known) -> Walk:
    """Walk the chain of a run's folder."""
    # Before the lines: of those that a run adds meanwhile, only the newest may be here alone.
    held = [link_in(path) for path in list_checkpoints(folder / "checkpoints")]
    found, lines = Walk(), whole_lines(folder / FILE)
    for line in lines:
        if not _step(found, line, known):
            return found
    for link in held:
        if link is not None and link.head.number >= len(lines):
            found.pending += 1
            if not _step(found, link.line(), known):
                return found
    return found


def _step(found: Walk, line: bytes, known: Known) -> bool:
    """Take one more link; False if it is broken."""
    number = len(found.links)
    try:
        link = parse_link(line)
    except PayloadError as error:
        found.fault = f"link {number}: {error}"
        return False
    found.fault = _order_fault(found.links, link.head)
    if found.fault is None:
        why = _own_fault(found.links, link, known)
        found.fault = None if why is None else f"{name_of(link.head)}: {why}"
    if found.fault is None:
        found.links.append(link)
    return found.fault is None


def name_of(head: Head) -> str:
    return f"link {head.number} (round {head.round})"


def _order_fault(before: Sequence[Link], head: Head) -> str | None:
    """What is wrong with a link's place."""
    if head.number != len(before):
        return f"link {len(before)}: is missing, {name_of(head)} stands in its place"
    if not before:
        return None if not head.previous else f"{name_of(head)}: names one before the first"
    last = before[-1].head
    if head.previous != last.hash:
        return (
            f"{name_of(last)}: has the hash {last.hash[:12]}, the link behind it names "
            f"{head.previous[:12]}: one of the two was changed"
        )
    return None


def _own_fault(before: Sequence[Link], link: Link, known: Known) -> str | None:
    """What is wrong with a link that stands in its place."""
    last = before[-1].head if before else None
    faults = [
        link.fault,
        lambda: _count_fault(last, link),
        lambda: _server_fault(link.head, known),
        *(partial(_entry_fault, entry, link.head, known) for entry in link.updates),
    ]
    return next((fault for look in faults if (fault := look())), None)


def _count_fault(last: Head | None, link: Link) -> str | None:
    """What does not follow from the link before: the run, the round, the tokens."""
    head = link.head
    if (last is None) != (head.kind == "begin"):
        return f"is of the kind {head.kind}"
    if last is None:
        return None
    if head.run != last.run:
        return f"is of the run {head.run}, the one before of {last.run}"
    step = {"round": 1, "skipped": 1}.get(head.kind, 0)
    if head.kind != "rewound" and head.round != last.round + step:
        return f"follows round {last.round}"
    tokens = last.tokens + sum(entry.tokens for entry in link.updates)
    if head.kind != "rewound" and head.tokens != tokens:
        return f"has {head.tokens} tokens, its updates make them {tokens}"
    return None


def _server_fault(head: Head, known: Known) -> str | None:
    if not known.servers or head.key in known.servers:
        return None
    if not head.key:
        return "is signed by nobody"
    return f"is signed with the key {fingerprint(head.key)[:16]}, not with the server's"


def _entry_fault(entry: Entry, head: Head, known: Known) -> str | None:
    """What is wrong with the node's signature of an update."""
    if fault := entry_fault(entry, head.run):
        return f"update of client {entry.client}: {fault}"
    own = known.nodes.get(entry.node)
    if known.servers and not entry.key and not entry.is_sum:
        return f"update of client {entry.client}: is signed by nobody"
    if own is not None and entry.key not in own:
        return f"update of client {entry.client}: is not signed with the key of node {entry.node}"
    return None
