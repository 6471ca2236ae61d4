"""Links: what is said of a commit, its hash, and the one form in which it is written.

    {"head": {..., "previous": hash of the link before}, "refused": {...}, "signature", "updates"}

The hash of a link is that of its head, which has the digests of all else. So whoever holds a head
and the digests of the entries can prove a single one, and sees nothing of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from photon.config.base import Closed
from photon.container.hashing import HASH
from photon.core.text import cleaned
from photon.errors import PayloadError
from photon.wire.facts import Count, Name, first_fault
from photon.wire.signatures import KEY_PATTERN, SIGNATURE_PATTERN, Seal, is_signed

FORMAT = 1
MOST_LINE_BYTES = 64 << 20
"""Of one link; an entry has less than a kilobyte."""
MOST_ENTRIES = 1 << 20

Digest = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, Field(strict=True, pattern=KEY_PATTERN)]
Signature = Annotated[str, Field(strict=True, pattern=SIGNATURE_PATTERN)]
Reason = Annotated[str, Field(strict=True, max_length=500)]
Said = Annotated[str, Field(strict=True, max_length=200)]
ClientName = Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,16}$")]

Kind = Literal["begin", "round", "skipped", "redrawn", "rewound"]
"""What a link is of: the first state; a round, or a merge; a round that was given up; layers that
were drawn anew; the way back to an earlier round.
"""


class Entry(Closed):
    """An accepted update.

    Attributes:
        covers: clients of whose updates it is the mean; empty: of `client` alone.
        round: the one that it was made for.
        base: digest of what its training started from.
        digest, size: of its container, as it was sent.
        tokens, steps: of its training.
        node, key: who has sent it, and that node's public key; empty: a client of the server's
            machine, a federation without keys, or a sum of masked updates, of which no node knows
            more than its own part.
        signature: the node's, of `statement`.
    """

    client: Count
    covers: list[Count] = Field(default_factory=list, max_length=MOST_ENTRIES)
    round: Count
    base: Digest
    digest: Digest
    size: Count
    tokens: Count
    steps: Count
    node: Annotated[str, Field(strict=True, max_length=64)] = ""
    key: Key = ""
    signature: Signature = ""

    def statement(self, run: str) -> bytes:
        """What a node signs of its update."""
        said = self.model_dump(exclude={"node", "key", "signature"})
        return b"photon update 1\0" + canonical({"run": run, **said})

    @property
    def is_sum(self) -> bool:
        """Whether it is a sum of masked updates: of several clients, and of no node."""
        return bool(self.covers) and not self.node

    @property
    def hash(self) -> str:
        return _hash(b"photon entry 1\0", self.model_dump())


class Mark(Closed):
    """A line of metrics.jsonl, as the commit holds it.

    Attributes:
        keys: how many it has; a run's end adds others behind them.
        digest: of those keys and values.
    """

    keys: Annotated[int, Field(strict=True, ge=0, le=1 << 16)]
    digest: Digest


class Head(Closed):
    """What the hash of a link is of.

    Attributes:
        number: of the link; 0 is the first.
        previous: hash of the one before; empty: there is none.
        round, step, tokens: of the state that was committed.
        state: digests of its containers: what clients receive, what the server keeps, and the
            parameters where clients hold others; and of its facts.
        plan: digest of what was asked for; empty: nothing was.
        record: of the round's line of metrics.jsonl.
        updates, refused: digests of both.
        key: that signs; empty: nobody does.
        about: of the first link: digests of configuration and data, versions, and the link that a
            copied run goes on from.
    """

    format: Annotated[int, Field(strict=True, ge=FORMAT, le=FORMAT)] = FORMAT
    number: Count
    previous: Annotated[str, Field(strict=True, pattern=r"^([0-9a-f]{64})?$")]
    run: Name
    kind: Kind
    round: Count
    step: Count
    tokens: Count
    state: dict[Literal["base", "own", "ahead", "facts"], Digest]
    plan: Annotated[str, Field(strict=True, pattern=r"^([0-9a-f]{64})?$")] = ""
    record: Mark | None = None
    updates: Digest
    refused: Digest
    key: Key = ""
    about: dict[Said, Said] = Field(default_factory=dict, max_length=32)

    @property
    def hash(self) -> str:
        return _hash(b"photon link 1\0", self.model_dump())


class Link(Closed):
    """A commit, as a line of chain.jsonl."""

    head: Head
    updates: list[Entry] = Field(default_factory=list, max_length=MOST_ENTRIES)
    refused: dict[ClientName, Reason] = Field(default_factory=dict, max_length=MOST_ENTRIES)
    signature: Signature = ""

    def line(self) -> bytes:
        return canonical(self.model_dump())

    def signed_by(self, seal: Seal | None) -> Link:
        """The link with a signature, where there is a key."""
        if seal is None:
            return self
        return self.model_copy(update={"signature": seal.sign(signed(self.head)).hex()})

    def fault(self) -> str | None:
        """What does not fit together in it, or None."""
        if self.head.updates != digest_of_entries([entry.hash for entry in self.updates]):
            return "its updates are not those that its hash is of"
        if self.head.refused != digest_of_refused(self.refused):
            return "its refused updates are not those that its hash is of"
        return signature_fault(self.head, self.signature)


def signature_fault(head: Head, signature: str) -> str | None:
    """What is wrong with the signature of a head, given the key that it names."""
    if not head.key:
        return "has a signature, and names no key" if signature else None
    if not signature:
        return "its signature is missing"
    return None if is_signed(head.key, signed(head), signature) else "its signature is forged"


def entry_fault(entry: Entry, run: str) -> str | None:
    """What is wrong with a node's signature of an update, given the key that it names."""
    if not entry.key:
        return "has a signature, and names no key" if entry.signature else None
    if not entry.signature:
        return f"the signature of node {entry.node} is missing"
    sound = is_signed(entry.key, entry.statement(run), entry.signature)
    return None if sound else f"the signature of node {entry.node} is forged"


def signed(head: Head) -> bytes:
    """What the server signs."""
    return b"photon head 1\0" + bytes.fromhex(head.hash)


def digest_of_entries(hashes: Sequence[str]) -> str:
    return _hash(b"photon entries 1\0", list(hashes))


def digest_of_refused(refused: Mapping[str, str]) -> str:
    return _hash(b"photon refused 1\0", dict(refused))


def digest_of_facts(facts: Mapping[str, Any]) -> str:
    """Of the facts of a state, as its manifest has them."""
    return _hash(b"photon facts 1\0", facts)


def digest_of_plan(facts: Mapping[str, Any]) -> str:
    return _hash(b"photon plan 1\0", facts)


def mark_of(record: Mapping[str, Any] | None, keys: int | None = None) -> Mark | None:
    """The mark of a record, or of its first `keys` keys."""
    if record is None:
        return None
    plain = json.loads(json.dumps(dict(record)))  # as a file gives it back
    first = dict(list(plain.items())[:keys])
    text = json.dumps(first, sort_keys=True, separators=(",", ":"))
    return Mark(keys=len(first), digest=HASH(b"photon record 1\0" + text.encode()).hexdigest())


def parse_link(line: bytes) -> Link:
    """The link that a line is.

    Raises:
        PayloadError: it is none, or not in the one form.
    """
    return parsed(Link, line)


def parsed(kind: type[Any], line: bytes) -> Any:
    """A value of `canonical` form.

    Raises:
        PayloadError: it is none, or not in the one form.
    """
    name = kind.__name__.lower()
    if len(line) > MOST_LINE_BYTES:
        raise PayloadError(f"{name}: {len(line)} bytes, at most {MOST_LINE_BYTES}")
    try:
        found = kind.model_validate(json.loads(line))
        same = canonical(found.model_dump()) == line
    except ValidationError as error:
        raise PayloadError(f"{name}: {first_fault(error)}") from None
    except (ValueError, RecursionError, TypeError) as error:
        raise PayloadError(f"{name}: unreadable ({cleaned(str(error), 80)})") from None
    if not same:
        raise PayloadError(f"{name}: not in the form in which links are written")
    return found


def canonical(value: Any) -> bytes:
    """The one JSON of a value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _hash(domain: bytes, value: Any) -> str:
    return HASH(domain + canonical(value)).hexdigest()
