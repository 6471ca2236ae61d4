"""Fuzz a history: each mutant of a link, a receipt or a message is refused, or is what it says.

    python benchmarks/fuzz_history.py                    a hundred thousand mutants
    python benchmarks/fuzz_history.py --count 1000000 --seed 7

A mutant that is read is in the one form in which it is written, and either says the same as the
sound one or is found at fault: by its hashes, for a link and a receipt. Nothing but `PayloadError`
is raised.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import fuzzing

from photon.chain.link import (
    Entry,
    Head,
    Link,
    digest_of_entries,
    digest_of_refused,
    parsed,
)
from photon.chain.receipts import Receipt
from photon.errors import PayloadError
from photon.wire.buffers import Buffers
from photon.wire.messages import Notice, pack_request, unpack_request

ODD = b'{}[]",:0e-n\\u\xff\x00'


def fuzz(count: int, seed: int) -> Counter[str]:
    """Outcomes by kind; an assertion fails where a mutant does harm."""
    rng, outcomes = random.Random(seed), Counter[str]()
    link = _link()
    receipt = Receipt.of(link, "a")
    notice = Notice(run="r", certificate=b"x" * 200, receipts=[receipt.line()])
    message = bytes(pack_request(notice).view())
    subjects: list[tuple[str, bytes, Callable[[bytes], str]]] = [
        ("link", link.line(), lambda data: _read(Link, data, link)),
        ("receipt", receipt.line(), lambda data: _read(Receipt, data, receipt)),
        ("message", message, _message),
    ]
    for number in range(count):
        name, line, look = subjects[number % len(subjects)]
        try:
            outcomes[f"{name} {look(_mutant(line, rng))}"] += 1
        except PayloadError:
            outcomes[f"{name} refused"] += 1
    return outcomes


def _link() -> Link:
    digest = "ab" * 32
    updates = [
        Entry(client=c, round=1, base=digest, digest=digest, size=9, tokens=5, steps=2, node="a")
        for c in range(2)
    ]
    refused = {"2": "not finite"}
    head = Head(
        number=1,
        previous=digest,
        run="r",
        kind="round",
        round=1,
        step=2,
        tokens=10,
        state={"base": digest},
        updates=digest_of_entries([entry.hash for entry in updates]),
        refused=digest_of_refused(refused),
    )
    return Link(head=head, updates=updates, refused=refused)


def _read(kind: type[Link] | type[Receipt], data: bytes, sound: Link | Receipt) -> str:
    found = parsed(kind, data)
    assert found.line() == data, "in another form"
    if found == sound:
        return "as it was"
    if found.fault() is not None:
        return "at fault"
    assert found.head.hash != sound.head.hash, "says something else under the same hash"
    return "another's"


def _message(data: bytes) -> str:
    unpack_request(Buffers(data))
    return "a message"


def _mutant(line: bytes, rng: random.Random) -> bytes:
    data = bytearray(line)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 30)]
            case 2:
                data[at:at] = bytes(rng.choices(ODD, k=rng.randint(1, 6)))
            case _:
                data[at] = rng.choice(b"0123456789abcdef")
        data = data or bytearray(b" ")
    return bytes(data)


if __name__ == "__main__":
    fuzzing.run(__doc__, 100_000, fuzz)
