"""Fuzz the parser of containers: each mutant is refused by `PayloadError` or is what was sent.

    python benchmarks/fuzz_container.py                     a million mutants
    python benchmarks/fuzz_container.py --count 100000 --seed 7

Half of the mutants keep the digest of the payload they were made of: those must be refused unless
nothing changed. The other half come with a digest of their own, as a forger's would, so that it is
the parser that must hold: what it reads, written anew by the second writer below, must give the
mutant's bytes.
"""

from __future__ import annotations

import json
import random
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import fuzzing
import torch

from photon.container.container import ContainerRef, parse_container, ref_of, write_container
from photon.errors import PayloadError

FRAME = 8
"""Bytes of the header's length."""
NUMBERS = ["-1", "0", "1", "64", "32", "128", "63", "4294967296", "281474976710656", "-0", "1e999",
           "0.0", "1e0", "NaN", "true", "null", "9" * 5000, "{}", "[]", '"a"']  # fmt: skip
SPLICES = [b'"facts": "{}", ', b'"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}, ',
           b"[" * 2000, b" ", b"\\ud800", b"\xff", b"\0", b'"a": 1, ', b"]", b"}", b", ", b"F64",
           b"I8", b"BF16", b'\\"a\\": 1, ']  # fmt: skip
FORMATS = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16",
           torch.float16: "F16", torch.int64: "I64", torch.int32: "I32", torch.int8: "I8",
           torch.uint8: "U8"}  # fmt: skip


def fuzz(count: int, seed: int) -> Counter[str]:
    """Outcomes by kind of mutation; an assertion fails where the parser does.

    Raises:
        AssertionError: a mutant was read as what it is not.
    """
    rng = random.Random(seed)
    originals = list(payloads())
    outcomes: Counter[str] = Counter()
    for index in range(count):
        data, ref = originals[index % len(originals)]
        mutation = rng.choice(MUTATIONS)
        mutant = mutation(data, rng)
        is_read = try_one(mutant, data, ref, is_forged=rng.random() < 0.5)
        outcomes[f"{mutation.__name__} {'read' if is_read else 'refused'}"] += 1
    return outcomes


def try_one(mutant: bytes, data: bytes, ref: ContainerRef, *, is_forged: bool) -> bool:
    """Whether the mutant was read, and then rightly so."""
    try:
        if not is_forged and ref_of(memoryview(mutant)) != ref:
            return False
        tensors, facts = parse_container(memoryview(bytearray(mutant)))
    except PayloadError:
        return False
    assert rewritten(tensors, facts) == mutant
    assert is_forged or mutant == data
    return True


def payloads() -> list[tuple[bytes, ContainerRef]]:
    """Small ones of different make."""
    makes: list[tuple[dict[str, torch.Tensor], dict[str, Any]]] = [
        ({"a": torch.arange(5.0), "b": torch.arange(3)}, {"k": 1}),
        (
            {"é": torch.ones(2, 9, dtype=torch.bfloat16), "none": torch.empty(0, 3)},
            {"n": [1.5, {}]},
        ),
        ({"s": torch.tensor(7, dtype=torch.int8)}, {"text": 'a "quoted" \\ ü', "null": None}),
        ({}, {}),
    ]
    made = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p"
        for tensors, facts in makes:
            ref = write_container(path, tensors, facts)
            made.append((path.read_bytes(), ref))
    return made


def rewritten(tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> bytes:
    """The bytes of a container by the description of the format, without the package's writer."""
    body, places = b"", {}
    for size in (8, 4, 2, 1):
        for name, value in tensors.items():
            if value.dtype.itemsize == size:
                start = len(body)
                if value.numel():
                    body += value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                places[name] = [start, len(body)]
    said = {"format": "pt", "photon": "2", "facts": json.dumps(facts, ensure_ascii=False)}
    header: dict[str, Any] = {"__metadata__": said}
    for name, value in tensors.items():
        kind, shape = FORMATS[value.dtype], list(value.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": places[name]}
    return framed(json.dumps(header, ensure_ascii=False), body)


def framed(header: str | bytes, body: bytes) -> bytes:
    raw = header.encode(errors="surrogatepass") if isinstance(header, str) else header
    raw += b" " * (-(FRAME + len(raw)) % 64)
    return struct.pack("<Q", len(raw)) + raw + body


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    new = rng.choice([rng.randbytes(rng.randrange(1, 9)), bytes(64), data[at:]])
    return data[:at] + new + data[at:]


def drop(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 65) :]


def header_byte(data: bytes, rng: random.Random) -> bytes:
    """Another byte in the header, in a sound frame."""
    header, body = parts(data)
    at = rng.randrange(len(header))
    return framed(header[:at] + bytes([rng.randrange(256)]) + header[at + 1 :], body)


def header_number(data: bytes, rng: random.Random) -> bytes:
    """Another value in place of one of the header's numbers."""
    header, body = parts(data)
    digits = [i for i, byte in enumerate(header) if chr(byte).isdigit()]
    if not digits:
        return header_splice(data, rng)
    start = end = rng.choice(digits)
    while chr(header[end]).isdigit():
        end += 1
    return framed(header[:start] + rng.choice(NUMBERS).encode() + header[end:], body)


def header_splice(data: bytes, rng: random.Random) -> bytes:
    """Something put into the header that means something there."""
    header, body = parts(data)
    at = rng.randrange(len(header) + 1)
    return framed(header[:at] + rng.choice(SPLICES) + header[at + rng.choice([0, 0, 1, 3]) :], body)


def header_entries(data: bytes, rng: random.Random) -> bytes:
    """Tensors left out, exchanged, added, with other formats, shapes and offsets."""
    header, body = parts(data)
    value = json.loads(header)
    about, size = value.pop("__metadata__"), rng.randrange(3)
    new = {"dtype": "U8", "shape": [size], "data_offsets": [len(body), len(body) + size]}
    entries = [*value.items(), ("z", new)]
    for _ in range(rng.randrange(1, 3)):
        _, entry = entries[rng.randrange(len(entries))]
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        entry["dtype"] = rng.choice([entry["dtype"], *FORMATS.values()])
        entry["shape"] = rng.choice([shape, [*shape, 1], [0, *shape], [2**47, 2**47, 0], [-1]])
        entry["data_offsets"] = rng.choice(
            [[start, end], [start + 4, end + 4], [start, end - 1], [0, end - start], [False, end]]
        )
    rng.shuffle(entries)
    kept = dict(entries[: rng.randrange(len(entries) + 1)])
    body = rng.choice([body, body + bytes(size), body[4:]])
    return framed(json.dumps({"__metadata__": about, **kept}, ensure_ascii=False), body)


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Header and body."""
    (length,) = struct.unpack("<Q", data[:FRAME])
    return data[FRAME : FRAME + length].rstrip(b" "), data[FRAME + length :]


MUTATIONS = [flip, cut, insert, drop, header_byte, header_number, header_splice, header_entries]


if __name__ == "__main__":
    fuzzing.run(__doc__, 1_000_000, fuzz)
