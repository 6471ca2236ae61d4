"""Receipts: what a node is told of each link of its run's chain, checks, and keeps.

A receipt has the head of a link with the server's signature, the node's own entries, and of the
others the hashes alone: so a node can prove what the server has said of its updates, and whoever
has the run folder cannot deny it.

    server: chain.jsonl -> `Outbox` -> Notice      node: Notice -> `ReceiptBook` -> receipts.jsonl
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from photon.chain.ledger import FILE, readable, whole_length, whole_lines
from photon.chain.link import (
    MOST_ENTRIES,
    Digest,
    Entry,
    Head,
    Link,
    Signature,
    canonical,
    digest_of_entries,
    entry_fault,
    parsed,
    signature_fault,
)
from photon.config.base import Closed
from photon.errors import PayloadError, storing
from photon.files import sync
from photon.say import Say
from photon.wire.messages import MOST_RECEIPT_BYTES, MOST_RECEIPTS, Notice
from photon.wire.signatures import fingerprint, key_of_certificate

RECEIPTS = "receipts.jsonl"
MOST_KEPT_BYTES = 64 << 20
"""Of one run's receipts on a node: tens of thousands of rounds."""


class Receipt(Closed):
    """What a node gets of a link.

    Attributes:
        entries: hashes of all its entries, in their order.
        own: those of the node.
    """

    head: Head
    signature: Signature
    entries: list[Digest] = Field(default_factory=list, max_length=MOST_ENTRIES)
    own: list[Entry] = Field(default_factory=list, max_length=MOST_ENTRIES)

    @classmethod
    def of(cls, link: Link, node: str) -> Receipt:
        return cls(
            head=link.head,
            signature=link.signature,
            entries=[entry.hash for entry in link.updates],
            own=[entry for entry in link.updates if entry.node == node],
        )

    def line(self) -> bytes:
        return canonical(self.model_dump())

    def fault(self) -> str | None:
        """What does not fit together in it, or None."""
        if not self.head.key:
            return "is signed by nobody"
        if self.head.updates != digest_of_entries(self.entries):
            return "its entries are not those that its hash is of"
        if missing := [entry for entry in self.own if entry.hash not in self.entries]:
            return f"the update of client {missing[0].client} is not in it"
        faults = (entry_fault(entry, self.head.run) for entry in self.own)
        own = next((fault for fault in faults if fault), None)
        return own or signature_fault(self.head, self.signature)


@dataclass(slots=True)
class Outbox:
    """What the nodes of a server have not been told yet.

    Args:
        folder: of the run; its chain is read as it grows.
        certificate: of the key that signs it.
    """

    folder: Path
    certificate: bytes
    _recent: deque[Link] = field(default_factory=lambda: deque(maxlen=MOST_RECEIPTS))
    _read: int = 0
    _told: dict[str, int] = field(default_factory=dict)
    _key: str = field(init=False)

    def __post_init__(self) -> None:
        self._key = key_of_certificate(self.certificate)

    def notice(self, run: str, node: str) -> Notice | None:
        """What a node is to be told now, the newest links if all are too many; None: nothing."""
        self._catch_up()
        told, lines = self._told.get(node, -1), deque[bytes]()
        for link in reversed(self._recent):
            line = Receipt.of(link, node).line() if link.head.number > told else b""
            if not line or sum(map(len, lines)) + len(line) > MOST_RECEIPT_BYTES:
                break
            lines.appendleft(line)
        if not lines:
            return None
        return Notice(run=run, certificate=self.certificate, receipts=list(lines))

    def was_told(self, node: str, notice: Notice | None) -> None:
        """Note that a node has answered."""
        if notice is not None:
            self._told[node] = parsed(Receipt, notice.receipts[-1]).head.number

    def _catch_up(self) -> None:
        path = self.folder / FILE
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(self._read)
            lines = file.read(whole_length(path) - self._read).split(b"\n")[:-1]
        self._read += sum(len(line) + 1 for line in lines)
        for link in readable(lines[-MOST_RECEIPTS:]):
            if link.head.key == self._key:  # others are not of this certificate
                self._recent.append(link)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node checks receipts by.

    Attributes:
        key: its own public key.
        authority: the certificate that must have issued the server's, PEM.
    """

    key: str
    authority: bytes


class ReceiptBook:
    """The receipts of one run on a node.

    Args:
        folder: of the run on the node.
        run: its name.
        node: the node's.
        trust: None: a federation without keys, in which nothing is kept.
        say: takes lines for the node's owner.
    """

    def __init__(self, folder: Path, run: str, node: str, trust: Trust | None, say: Say) -> None:
        self.path, self.run, self.node = folder / RECEIPTS, run, node
        self.trust, self.say = trust, say
        self._hashes: dict[int, str] = {}
        self._kept = set[str]()
        self._is_full = False
        for _, receipt in read_receipts(self.path) if trust else ():
            if isinstance(receipt, Receipt):
                self._kept.add(receipt.head.hash)
                self._note(receipt.head)

    def take(self, notice: Notice | None) -> None:
        """Check what the server says of its history, and keep it.

        Raises:
            PayloadError: it is forged, or another history than the server has told before.
        """
        if notice is None or self.trust is None:
            return
        server = key_of_certificate(notice.certificate, self.trust.authority)
        for line in notice.receipts:
            receipt: Receipt = parsed(Receipt, line)
            if self._hashes.get(receipt.head.number) == receipt.head.hash:
                continue
            if fault := self._fault(receipt, server):
                raise PayloadError(f"receipt of {_name(receipt)}: {fault}")
            self._keep(receipt, line)

    def _fault(self, receipt: Receipt, server: str) -> str | None:
        head, known = receipt.head, self._hashes
        if head.run != self.run:
            return f"is of the run {head.run}"
        if head.key != server:
            return f"is signed with the key {fingerprint(head.key)[:16]}, not with the server's"
        if fault := receipt.fault():
            return fault
        assert self.trust is not None
        if strange := [e for e in receipt.own if e.node != self.node or e.key != self.trust.key]:
            return f"the update of client {strange[0].client} is not signed by this node"
        same, before = known.get(head.number), known.get(head.number - 1)
        if same is not None:
            how = f"was {same[:12]}, now it is {head.hash[:12]}"
            return self._rewritten(receipt, same, how)
        if before not in (None, head.previous):
            how = f"follows {head.previous[:12]}, this node was told {before[:12]}"
            return self._rewritten(receipt, before, how)
        return None

    def _rewritten(self, receipt: Receipt, told: str, how: str) -> str:
        """What is wrong with a receipt that an earlier one contradicts: both lines prove it.

        Args:
            told: hash of the earlier one.
        """
        self._keep(receipt, receipt.line())
        has = "has both" if {told, receipt.head.hash} <= self._kept else "is full, without both"
        return (
            f"the server's history has been rewritten: this link {how}; {self.path} {has}; move "
            "it away to accept the new history"
        )

    def _keep(self, receipt: Receipt, line: bytes) -> None:
        if receipt.head.hash in self._kept:
            return
        if self._has_room(receipt.head.number):
            with storing(self.path), open(self.path, "ab") as file:
                file.truncate(whole_length(self.path))
                file.write(line + b"\n")
                sync(file)
            self._kept.add(receipt.head.hash)
        self._note(receipt.head)

    def _has_room(self, number: int) -> bool:
        """Whether the next line may be written; says what is not kept: a gap, or all from here on.

        A file that was full before the node's start tells of no gap: what was heard is forgotten.
        """
        last, was_full = max(self._hashes, default=number), self._is_full
        self._is_full = self.path.exists() and self.path.stat().st_size > MOST_KEPT_BYTES
        if self._is_full and not was_full:
            self.say(f"receipts    {self.path} is full: from link {number} on none is kept")
        elif number > last + 1:
            self.say(f"receipts    none of links {last + 1} to {number - 1} has come")
        return not self._is_full

    def _note(self, head: Head) -> None:
        """Remember a head, but for one that others contradict."""
        if self._hashes.get(head.number - 1) in (None, head.previous):
            self._hashes.setdefault(head.number, head.hash)


def read_receipts(path: Path) -> Iterator[tuple[int, Receipt | str]]:
    """Receipts of a file with the numbers of their lines; why a line is none."""
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            yield number, parsed(Receipt, line)
        except PayloadError as error:
            yield number, str(error)


def _name(receipt: Receipt) -> str:
    return f"link {receipt.head.number} (round {receipt.head.round})"
