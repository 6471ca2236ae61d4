"""The payload format: what is read is what was written, and nothing else is read at all."""

from __future__ import annotations

import hashlib
import json
import random

import pytest
import torch

from photon.errors import PayloadError, StorageError
from photon.runtime import payload
from photon.runtime.chunks import ChunkWriter, read_chunk
from photon.runtime.payload import (
    ALIGN,
    DTYPES,
    HEAD,
    MAGIC,
    PayloadRef,
    parse_payload,
    payload_digest,
    read_payload,
    write_payload,
)

FACTS = {"kind": "test", "round": 3, "nested": {"x": [1, 2.5, "é"]}}


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        f"of {name}": torch.randint(0, 100, (3, 5), generator=generator).to(dtype)
        for name, dtype in DTYPES.items()
    }
    return {
        **made,
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
        "strided": torch.arange(12.0).view(3, 4).t(),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "p"
    return path, write_payload(path, tensors(), FACTS)


def assert_same(found, facts) -> None:
    expected = tensors()
    assert list(found) == list(expected)
    assert facts == FACTS
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_payload_comes_back_as_it_was(written):
    path, ref = written
    assert_same(*read_payload(path, ref))
    assert_same(*parse_payload(path.read_bytes(), ref))
    assert ref.size == path.stat().st_size


def test_the_digest_is_that_of_the_description(tmp_path, monkeypatch):
    """Header's hash, then the hash of every block, however tensors fall over the blocks."""
    monkeypatch.setattr(payload, "BLOCK_BYTES", 100)
    ref = write_payload(tmp_path / "p", {"a": torch.arange(60.0), "b": torch.arange(7)}, {})
    data = (tmp_path / "p").read_bytes()
    (length,) = (HEAD.unpack(data[: HEAD.size])[2],)
    header = data[HEAD.size : HEAD.size + length]
    body = data[-(-(HEAD.size + length) // ALIGN) * ALIGN :]
    total = hashlib.sha256(hashlib.sha256(header).digest())
    for start in range(0, len(body), 100):
        total.update(hashlib.sha256(body[start : start + 100]).digest())
    assert ref.digest == total.hexdigest() == payload_digest(memoryview(data))


def test_writing_twice_gives_the_same_bytes(tmp_path, written):
    path, ref = written
    assert write_payload(tmp_path / "again", tensors(), FACTS) == ref
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def remade(header: dict | bytes, body: bytes) -> tuple[bytes, PayloadRef]:
    """A payload with a right digest over a header that nobody here would write."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = HEAD.pack(MAGIC, 1, len(raw)) + raw
    data += bytes(-len(data) % ALIGN) + body
    return data, PayloadRef(payload_digest(memoryview(data)), len(data))


def entry(name="a", dtype="f32", shape=(16,), offset=0) -> list:
    return [name, dtype, list(shape), offset]


@pytest.mark.parametrize(
    ("entries", "body"),
    [
        ([entry(offset=64)], bytes(128)),
        ([entry(offset=-64)], bytes(64)),
        ([entry(), entry()], bytes(128)),
        ([entry(), entry("b", offset=32)], bytes(128)),
        ([entry(shape=(-1,))], bytes(64)),
        ([entry(shape=(1 << 40, 1 << 40))], bytes(64)),
        ([entry(shape=(17,))], bytes(64)),
        ([entry(shape=(True,))], bytes(64)),
        ([entry(dtype="f64")], bytes(128)),
        ([entry(shape=(1,))], b"\1" * 64),
        ([entry(name=3)], bytes(64)),
        ([entry()[:3]], bytes(64)),
        ([entry()], bytes(128)),
        ("nonsense", bytes(64)),
    ],
)
def test_a_header_that_does_not_fit_its_body_is_refused(entries, body):
    data, ref = remade({"facts": {}, "tensors": entries}, body)
    with pytest.raises(PayloadError):
        parse_payload(data, ref)


@pytest.mark.parametrize(
    "header",
    [b"", b"[]", b"{}", b'{"facts": {}, "tensors": [], "more": 1}',
     b'{"facts": NaN, "tensors": []}', b"[" * 200_000, b'{"facts": 1, "tensors": []}', b"\xff\xfe"],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header):
    data, ref = remade(header, b"")
    with pytest.raises(PayloadError):
        parse_payload(data, ref)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One fault: flipped bits, a cut, an insertion, a repeat, or another byte in the header."""
    at = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    if kind == 3:
        return data[:at] + data[at + rng.randrange(1, 65) :]
    if kind == 4:
        return data + data[at:]
    at = rng.randrange(min(len(data), 200))
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


def test_of_a_hundred_thousand_mutants_none_is_read_as_something_else(tmp_path):
    """Half of them keep the digest they came with, half have a right one, so that it is the parser
    that must hold; every fault is a `PayloadError`."""
    rng = random.Random(0)
    ref = write_payload(tmp_path / "p", {"a": torch.arange(5.0), "b": torch.arange(3)}, {"k": 1})
    data = (tmp_path / "p").read_bytes()
    read = 0
    for count in range(100_000):
        mutant = mutated(data, rng)
        own = ref
        try:
            if count % 2:
                own = PayloadRef(payload_digest(memoryview(mutant)), len(mutant))
            found, facts = parse_payload(mutant, own)
        except PayloadError:
            continue
        read += 1
        assert count % 2 or mutant == data
        assert isinstance(facts, dict)
        assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert 0 < read < 50_000


@pytest.mark.parametrize(
    "value",
    [{}, {"digest": "../../etc/passwd", "size": 100}, {"digest": "a" * 64, "size": -1},
     {"digest": "a" * 64, "size": True}, {"digest": "A" * 64, "size": 100},
     {"digest": 3, "size": 3}, {"digest": "a" * 64, "size": 1 << 60}],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(value):
    with pytest.raises(PayloadError):
        PayloadRef.from_json(value)


def test_another_payload_in_its_place_is_refused(written, tmp_path):
    path, ref = written
    other = write_payload(tmp_path / "other", {"a": torch.zeros(3)}, {})
    with pytest.raises(PayloadError, match=f"are not payload {other.digest[:12]}"):
        read_payload(path, other)
    with pytest.raises(PayloadError, match="cannot be read"):
        read_payload(tmp_path / "missing", ref)


def test_what_does_not_travel_is_refused(tmp_path):
    with pytest.raises(PayloadError, match=r"a: torch\.float64 does not travel"):
        write_payload(tmp_path / "p", {"a": torch.zeros(1, dtype=torch.float64)}, {})
    with pytest.raises(StorageError, match="cannot write"):
        write_payload(tmp_path / "no" / "such" / "p", {}, {})
    assert not list(tmp_path.iterdir())


def test_pieces_come_in_any_order(written, tmp_path):
    path, ref = written
    writer = ChunkWriter(tmp_path / "copy", ref)
    starts = list(range(0, ref.size, 100))
    random.Random(1).shuffle(starts)
    for start in starts[1:]:
        writer.write(start, read_chunk(path, start, 100))
    with pytest.raises(PayloadError, match=f"bytes {starts[0]} to .* have not come"):
        writer.finish()
    for _ in range(2):  # the same piece may come again
        writer.write(starts[0], read_chunk(path, starts[0], 100))
    writer.finish()
    assert_same(*read_payload(tmp_path / "copy", ref))


def test_pieces_that_do_not_fit_are_refused(written, tmp_path):
    path, ref = written
    writer = ChunkWriter(tmp_path / "copy", ref)
    writer.write(0, read_chunk(path, 0, 100))
    for offset, data in ((50, b"x" * 10), (ref.size - 1, b"xx"), (-1, b"x"), (200, b"")):
        with pytest.raises(PayloadError):
            writer.write(offset, data)
    writer.write(100, bytes(ref.size - 100))
    with pytest.raises(PayloadError):
        writer.finish()
    assert not (tmp_path / "copy").exists()
