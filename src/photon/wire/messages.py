"""What a server asks of a node, and what the node answers: small, typed, bound to each other.

A request carries a nonce. A reply names the hash of its request, so neither an old reply nor one
from another node can stand in for it, and is signed with the node's key where there are keys.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, InstanceOf, TypeAdapter, ValidationError

from photon.config.base import Closed
from photon.core.text import cleaned
from photon.errors import PayloadError
from photon.wire.buffers import Buffers, pack, unpack
from photon.wire.facts import InstructionFacts, MetricName, Name, Number, Positive, first_fault

PROTOCOL = 13
MAX_INLINE_BYTES = 64 << 20
"""Payload bytes in one message; larger payloads travel in several, or by another transport."""
MAX_MESSAGE_BYTES = MAX_INLINE_BYTES + (4 << 20)

LARGEST_UPDATE = 4
"""A masked update with two moments is four times the base at the most: squares take 64 bits."""
HEADER_ROOM = 1 << 20
"""For the facts and names in which an update differs from a base."""
MOST_CLIENTS = 1 << 20
"""Clients that one node may host."""

MOST_RECEIPTS = 64
MOST_RECEIPT_BYTES = 1 << 20
"""Of a run's chain in one message, all together; the newest links where there are more."""
MOST_SIGNATURE = 110
"""Bytes of an ECDSA signature by a key of P-384."""

MOST_STEPS = 1 << 10
"""Differences that lead from what a node holds to what it needs."""
MOST_DEVICES = 1 << 12
"""That one node may say it has."""

Text = Annotated[str, AfterValidator(cleaned)]
"""What somebody else has written: one short line, however it came."""
Client = Annotated[int, Field(ge=0, lt=10**9)]

Ticket = dict[str, Any]
"""Says how to get a payload; which keys, each transport decides."""

MOST_MASKED = 1 << 12
"""Clients of a session of secure aggregation."""
Session = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{32}$")]
PublicKey = Annotated[bytes, Field(strict=True, min_length=96, max_length=96)]
Shares = Annotated[
    dict[Client, Annotated[bytes, Field(strict=True, min_length=33, max_length=82)]],
    Field(max_length=MOST_MASKED),
]
Parties = Annotated[list[Client], Field(min_length=1, max_length=MOST_MASKED)]

Sign = Callable[[bytes], bytes]
Verify = Callable[[str, bytes, bytes], bool]
"""Whether the node of that name has signed those bytes so."""


class Hello(Closed):
    """The server asks for the node's name, clients and versions."""

    kind: Literal["hello"] = "hello"
    protocol: int = PROTOCOL


class Notice(Closed):
    """What a node is told of its run's chain, to check and to keep; see `chain.receipts`.

    Attributes:
        certificate: the server's, PEM.
        receipts: lines, oldest first.
    """

    kind: Literal["notice"] = "notice"
    run: str
    certificate: bytes = Field(max_length=1 << 14)
    receipts: list[Annotated[bytes, Field(max_length=MOST_RECEIPT_BYTES)]] = Field(
        min_length=1, max_length=MOST_RECEIPTS
    )


class Train(Closed):
    """Train these clients from this base.

    Attributes:
        config: what travels of the server's resolved configuration, by key; see `config.between`.
        config_digest: of what decides the mathematics in it.
        data: what the node's data must agree with: the tokenizer and its use.
        base: the global parameters, and averaged moments if there are any; a digest and a size
            alone name one that the node holds, that `steps` make of what it holds, or, in the first
            round, that the seed makes.
        steps: differences, in their order.
        instructions: one for each client.
        upload: how updates come back: a grant of the transport, by client.
        notice: what of the run's chain the node has not been told, where there is a key.
    """

    kind: Literal["train"] = "train"
    run: str
    round: int
    config: dict[str, Any]
    config_digest: str
    data: dict[str, Any]
    base: Ticket
    steps: list[Ticket] = Field(default_factory=list, max_length=MOST_STEPS)
    instructions: list[InstructionFacts] = Field(min_length=1, max_length=MOST_CLIENTS)
    upload: dict[int, Ticket] = Field(default_factory=dict)
    notice: Notice | None = None


class Put(Closed):
    """Bytes of a payload from `offset` on, for the node to keep.

    Attributes:
        digest, size: of the whole payload, see `ContainerRef`.
    """

    kind: Literal["put"] = "put"
    digest: str
    size: int
    offset: int
    data: InstanceOf[Buffers]


class Get(Closed):
    """The server asks for `length` bytes of a payload that the node has offered inline."""

    kind: Literal["get"] = "get"
    digest: str
    offset: int
    length: int


class Cancel(Closed):
    """Stop training for rounds before this one: the server has gone on, or ends."""

    kind: Literal["cancel"] = "cancel"
    run: str
    before: int


class Agree(Closed):
    """Begin a session of secure aggregation, in which each of these clients gets new keys.

    Attributes:
        terms: of the session, see `secure.terms`.
        clients: of this node.
    """

    kind: Literal["agree"] = "agree"
    session: Session
    run: Name
    round: Positive
    base_digest: Name
    cohort: Annotated[int, Field(strict=True, ge=2, le=MOST_MASKED)]
    threshold: Annotated[int, Field(strict=True, ge=2, le=MOST_MASKED)]
    most_tokens: Positive
    reaches: dict[MetricName, Number] = Field(min_length=1, max_length=8)
    alike: Annotated[bool, Field(strict=True)] = False
    parties: Parties
    clients: Parties


class ShareKeys(Closed):
    """Share the secrets of the session among the clients that have these keys."""

    kind: Literal["share"] = "share"
    session: Session
    keys: dict[Client, PublicKey] = Field(max_length=MOST_MASKED)


class MaskNumbers(Closed):
    """Mask the updates of clients that have these shares of others.

    Attributes:
        sealed: by client, what others have sealed for it.
        upload: as in `Train`.
    """

    kind: Literal["mask"] = "mask"
    session: Session
    sealed: dict[Client, Shares] = Field(max_length=MOST_MASKED)
    upload: dict[int, Ticket] = Field(default_factory=dict)


class Reveal(Closed):
    """Tell the share of each client that the masks of the sum of the survivors' need."""

    kind: Literal["reveal"] = "reveal"
    session: Session
    clients: Parties
    survivors: Parties


class TurnedAway(Closed):
    """This node may not take part, and should not wait."""

    kind: Literal["turned_away"] = "turned_away"
    reason: Text


Request = Annotated[
    Hello
    | Train
    | Put
    | Get
    | Cancel
    | Notice
    | Agree
    | ShareKeys
    | MaskNumbers
    | Reveal
    | TurnedAway,
    Field(discriminator="kind"),
]


class Introduction(Closed):
    """A node's answer to `Hello`.

    Attributes:
        clients: whose data it has.
        holds: digest of the base that it has; none: empty.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    clients: list[Client] = Field(max_length=MOST_CLIENTS)
    versions: dict[Text, Text] = Field(max_length=16)
    protocol: int
    holds: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Trained(Closed):
    """A node's answer to `Train`: of each client an update or a reason.

    Attributes:
        updates: tickets of payloads by client.
        failed: why not, by client.
        leaving: the node is being stopped; what has no update goes on when it is back.
        devices: how many clients it trains at a time.
        signatures: of what it sends, by client, see `chain.link.Entry`; none without keys.
    """

    updates: dict[int, Ticket] = Field(default_factory=dict)
    failed: dict[int, Text] = Field(default_factory=dict)
    leaving: bool = False
    devices: int = Field(default=1, ge=1, le=MOST_DEVICES)
    signatures: dict[Client, Annotated[bytes, Field(max_length=MOST_SIGNATURE)]] = Field(
        default_factory=dict, max_length=MOST_CLIENTS
    )


class Told(Closed):
    """A node's answer to a question of secure aggregation: of each client what it was asked for, or
    a reason.

    Attributes:
        keys: three public keys one after the other, to `Agree`.
        shares: by client, for or of each other one; sealed to `ShareKeys`, open to `Reveal`.
        updates: as in `Trained`, to `MaskNumbers`.
    """

    keys: dict[Client, PublicKey] = Field(default_factory=dict, max_length=MOST_MASKED)
    shares: dict[Client, Shares] = Field(default_factory=dict, max_length=MOST_MASKED)
    updates: dict[int, Ticket] = Field(default_factory=dict, max_length=MOST_MASKED)
    failed: dict[int, Text] = Field(default_factory=dict, max_length=MOST_MASKED)


class Piece(Closed):
    """A node's answer to `Get`."""

    data: InstanceOf[Buffers]


class Kept(Closed):
    """A node's answer to `Put`.

    Attributes:
        until: so many bytes of the payload, from its beginning, are there, earlier ones too.
    """

    until: int = Field(strict=True, ge=0)


class Done(Closed):
    """A node's answer to `Cancel` and `Notice`."""


class Refused(Closed):
    """A node's answer to what it cannot do."""

    error: Text


_REQUESTS: TypeAdapter[Request] = TypeAdapter(Request)
ReplyT = TypeVar("ReplyT", bound=Closed)


def most_update_bytes(base: int) -> int:
    """Most bytes of an update to a base of `base` bytes."""
    return LARGEST_UPDATE * base + HEADER_ROOM


def pack_request(request: Closed) -> Buffers:
    """A request with a nonce of its own."""
    return pack({"nonce": secrets.token_bytes(16), "body": request.model_dump()})


def unpack_request(data: Buffers) -> Request:
    """The request in a message.

    Raises:
        PayloadError: it is none.
    """
    envelope = _unpack(data, {"nonce", "body"})
    try:
        return _REQUESTS.validate_python(envelope["body"])
    except ValidationError as error:
        raise PayloadError(f"request: {first_fault(error)}") from None


def pack_reply(request: Buffers, name: str, reply: Closed, sign: Sign | None) -> Buffers:
    """A node's reply to the message `request`."""
    body = pack({type(reply).__name__: reply.model_dump()})
    signature = sign(_signed(request, body)) if sign else b""
    return pack({"node": name, "body": body, "signature": signature, "to": request.digest})


def unpack_reply(
    request: Buffers, data: Buffers, kind: type[ReplyT], verify: Verify | None
) -> tuple[str, ReplyT]:
    """The node's name and its reply to the message `request`.

    Raises:
        PayloadError: no such reply, or not to this request, or not signed by that node; or the
            node refuses, with its reason.
    """
    envelope = _unpack(data, {"node", "body", "signature", "to"})
    name, body, signature = (envelope[key] for key in ("node", "body", "signature"))
    if not (isinstance(name, str) and isinstance(body, Buffers) and isinstance(signature, bytes)):
        raise PayloadError("reply: not a node's envelope")
    name = cleaned(name, 64)  # it comes before the signature that would vouch for it
    if envelope["to"] != request.digest:
        raise PayloadError(f"reply of {name}: answers another request (a replay?)")
    if verify is not None and not verify(name, _signed(request, body), signature):
        raise PayloadError(f"reply of {name}: not signed with the key enrolled for that name")
    known = unpack(body)
    if "Refused" in known:
        raise PayloadError(f"node {name}: {_validated(Refused, known['Refused']).error}")
    if set(known) != {kind.__name__}:
        other = cleaned(", ".join(map(str, known)), 80)
        raise PayloadError(f"reply of {name}: {other}, not {kind.__name__}")
    return name, _validated(kind, known[kind.__name__])


def _validated(kind: type[ReplyT], value: Any) -> ReplyT:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise PayloadError(f"reply {kind.__name__}: {first_fault(error)}") from None


def _unpack(data: Buffers, keys: set[str]) -> dict[str, Any]:
    value = unpack(data)
    if set(value) != keys:
        raise PayloadError(f"message of {data.size} bytes: not one of ours")
    return value


def _signed(request: Buffers, body: Buffers) -> bytes:
    return b"photon reply 3\0" + request.digest + body.digest
