"""Fuzz secure aggregation: mutants of its messages, its shares and its seals.

    python benchmarks/fuzz_secure.py                    a hundred thousand mutants
    python benchmarks/fuzz_secure.py --count 1000000 --seed 7

A message is refused, or is one. Shares of which one was changed never give the secret back. What
was sealed is opened unchanged or not at all. Nothing but `PayloadError` is raised.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import fuzzing

from photon.errors import PayloadError
from photon.secure import masks
from photon.secure.shares import SHARE_BYTES, factors, joined, split
from photon.wire.buffers import Buffers
from photon.wire.messages import (
    Agree,
    MaskNumbers,
    Reveal,
    ShareKeys,
    Told,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)

SESSION = "0123456789abcdef" * 2
ASKED = [
    Agree(session=SESSION, run="r", round=3, base_digest="d", cohort=4, threshold=3,
          most_tokens=1000, reaches={"pseudo-gradient": 0.5}, parties=[0, 1, 2, 3], clients=[0]),
    ShareKeys(session=SESSION, keys={0: b"k" * 96, 1: b"l" * 96}),
    MaskNumbers(session=SESSION, sealed={0: {1: b"s" * 82}}, upload={0: {"via": "inline"}}),
    Reveal(session=SESSION, clients=[0], survivors=[0, 1, 2]),
]  # fmt: skip
TOLD = Told(keys={0: b"k" * 96}, shares={0: {1: b"s" * 33}}, updates={0: {}}, failed={1: "no"})
KEY, CONTEXT, TEXT = bytes(range(32)), b"session", bytes(66)
HOLDERS = (0, 2, 5)


def fuzz(count: int, seed: int) -> Counter[str]:
    """Outcomes by kind; an assertion fails where a mutant does harm."""
    rng, outcomes = random.Random(seed), Counter[str]()
    subjects = [(type(one).__name__, bytes(pack_request(one).view()), _request) for one in ASKED]
    subjects += [_reply(), _shares(rng), ("seal", masks.seal(KEY, TEXT, CONTEXT), _seal)]
    for number in range(count):
        name, sound, look = subjects[number % len(subjects)]
        data = _mutant(sound, rng)
        try:
            outcomes[f"{name} {'as it was' if data == sound else look(data)}"] += 1
        except PayloadError:
            outcomes[f"{name} refused"] += 1
    return outcomes


def _request(data: bytes) -> str:
    unpack_request(Buffers(data))
    return "a message"


def _reply() -> tuple[str, bytes, Callable[[bytes], str]]:
    asked = pack_request(ASKED[0])

    def look(data: bytes) -> str:
        unpack_reply(asked, Buffers(data), Told, None)
        return "a message"

    return "Told", bytes(pack_reply(asked, "a", TOLD, None).view()), look


def _shares(rng: random.Random) -> tuple[str, bytes, Callable[[bytes], str]]:
    found, by = split(KEY, len(HOLDERS), HOLDERS, rng.randbytes), factors(HOLDERS)

    def look(data: bytes) -> str:
        if len(data) != SHARE_BYTES:
            raise PayloadError("no share")  # as a session and its messages do
        secret = joined({**found, HOLDERS[0]: data}, by)
        assert secret != KEY, "another share gives the secret back"
        return "no secret" if secret is None else "another secret"

    return "share", found[HOLDERS[0]], look


def _seal(data: bytes) -> str:
    masks.unseal(KEY, data, CONTEXT)
    raise AssertionError("opened, although it was changed")


def _mutant(sound: bytes, rng: random.Random) -> bytes:
    data = bytearray(sound)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                del data[at : at + rng.randint(1, 8)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                data[at] ^= 1 << rng.randrange(8)
        data = data or bytearray(b" ")
    return bytes(data)


if __name__ == "__main__":
    fuzzing.run(__doc__, 100_000, fuzz)
