"""The payload format: what is read is what was written, and nothing else is read at all."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch

from photon.errors import PayloadError, StorageError
from photon.wire import payload
from photon.wire.chunks import ChunkWriter, read_chunk
from photon.wire.payload import (
    HEAD,
    MAGIC,
    PayloadRef,
    parse_payload,
    payload_digest,
    read_payload,
    write_payload,
)
from photon.wire.payload_header import ALIGN, DTYPES

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
        ([entry(shape=(0, 1 << 47, 1 << 47))], b""),
        ([entry(shape=(1,) * 17)], bytes(64)),
        ([entry(offset=False)], bytes(64)),
        ([entry(offset=0.0)], bytes(64)),
        ([entry(name="\ud800")], bytes(64)),
        ([entry(dtype="f64")], bytes(128)),
        ([entry(dtype=["f32"])], bytes(64)),
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
     b'{"facts": {"a": NaN}, "tensors": []}', b'{"facts": {"a": 1e999}, "tensors": []}',
     b'{"facts": {"a": 1, "a": 1}, "tensors": []}', b' {"facts": {}, "tensors": []}',
     b'{"facts":{}, "tensors": []}', '{"facts": {}, "tensors": []}'.encode("utf-16"),
     b'{"facts": {"a": ' + b"[" * 33 + b"]" * 33 + b'}, "tensors": []}', b"[" * 200_000,
     b'{"facts": {"a": ' + b"9" * 5000 + b'}, "tensors": []}',
     b'{"facts": 1, "tensors": []}', b'{"facts": {}, "tensors": {}}', b"\xff\xfe"],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header):
    data, ref = remade(header, b"")
    with pytest.raises(PayloadError, match="malformed header"):
        parse_payload(data, ref)


def test_of_a_hundred_thousand_mutants_none_is_read_as_something_else(monkeypatch):
    """Half of them keep the digest they came with, half have a right one, so that it is the parser
    that must hold; see the benchmark, which does a million."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from fuzz_payload import fuzz

    outcomes = fuzz(100_000, seed=0)
    read = sum(count for what, count in outcomes.items() if what.endswith("read"))
    assert 1_000 < read < 50_000, "mutants that are payloads are among them, and others"


@pytest.mark.parametrize(
    "value",
    [{}, {"digest": "../../etc/passwd", "size": 100}, {"digest": "a" * 64, "size": -1},
     {"digest": "a" * 64, "size": True}, {"digest": "A" * 64, "size": 100},
     {"digest": 3, "size": 3}, {"digest": "a" * 64, "size": 1 << 60}, None, ["a" * 64, 100]],
)  # fmt: skip
def test_a_name_that_is_none_is_refused(value):
    with pytest.raises(PayloadError):
        PayloadRef.from_json(value)


def test_another_payload_in_its_place_is_refused(written, tmp_path):
    path, ref = written
    other = write_payload(tmp_path / "other", {"a": torch.zeros(3)}, {})
    with pytest.raises(
        PayloadError, match=f"not the {other.size} bytes of payload {other.digest[:12]}"
    ):
        read_payload(path, other)
    with pytest.raises(PayloadError, match="cannot be read"):
        read_payload(tmp_path / "missing", ref)


def test_what_does_not_travel_is_refused(tmp_path):
    with pytest.raises(PayloadError, match=r"a: torch\.float64 does not travel"):
        write_payload(tmp_path / "p", {"a": torch.zeros(1, dtype=torch.float64)}, {})
    for facts in ({"a": float("inf")}, {"a": object()}, {"a": "\ud800"}):
        with pytest.raises(PayloadError, match="facts that do not travel"):
            write_payload(tmp_path / "p", {}, facts)
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


@pytest.mark.parametrize(
    "frame",
    [b"PHOTON\n\n\0\1\0\0\0\0", b"PHOTON\r\n\0\2\0\0\0\0",
     b"PHOTON\r\n\0\1\xff\xff\xff\xff", b"PHOTON\r\n\0\1", b""],
)  # fmt: skip
def test_a_frame_that_is_none_is_refused(frame):
    with pytest.raises(PayloadError, match="payload: "):
        payload_digest(memoryview(frame + bytes(64 if len(frame) == 14 else 0)))


def test_tensors_of_many_sizes_fall_over_blocks_as_one_piece_would(tmp_path, monkeypatch):
    """Small blocks, many hashes at a time: what is read is what was written."""
    monkeypatch.setattr(payload, "BLOCK_BYTES", 96)
    generator = torch.Generator().manual_seed(1)
    values = {str(n): torch.randn(n, generator=generator) for n in (1, 15, 16, 17, 47, 48, 1000)}
    path = tmp_path / "p"
    found, _ = read_payload(path, write_payload(path, values, {}))
    assert all(torch.equal(found[name], value) for name, value in values.items())
    assert not any(value.data_ptr() % ALIGN for value in found.values())


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(payload, "_hash_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_payload(tmp_path / "p", {}, {})
    assert not list(tmp_path.iterdir())
