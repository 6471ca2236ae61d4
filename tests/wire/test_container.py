"""The container: what is read is what was written, and nothing else is read at all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from safetensors import safe_open
from safetensors.torch import load_file

from photon.container import container
from photon.container.container import (
    ContainerRef,
    container_ref,
    first_difference,
    open_container,
    parse_container,
    ref_of,
    write_container,
)
from photon.container.hashing import HASH
from photon.container.header import ALIGN, DTYPES
from photon.errors import PayloadError, StorageError
from photon.wire.chunks import ChunkWriter, read_chunk

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
    return path, write_container(path, tensors(), FACTS)


def assert_same(found, facts) -> None:
    expected = tensors()
    assert list(found) == list(expected)
    assert facts == FACTS
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_payload_comes_back_as_it_was(written):
    path, ref = written
    assert_same(*open_container(path, ref))
    assert_same(*open_container(path))
    assert_same(*parse_container(memoryview(bytearray(path.read_bytes()))))
    assert ref.size == path.stat().st_size


def test_anybodys_safetensors_reads_it(written):
    path, _ = written
    found, expected = load_file(path), tensors()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["facts"]) == FACTS
        assert file.metadata()["format"] == "pt", "what transformers asks for"


def test_the_digest_is_that_of_the_description(tmp_path, monkeypatch):
    """Header's hash, then the hash of every block, however tensors fall over the blocks."""
    monkeypatch.setattr(container, "BLOCK_BYTES", 100)
    ref = write_container(tmp_path / "p", {"a": torch.arange(60.0), "b": torch.arange(7)}, {})
    data = (tmp_path / "p").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    total = blake3(blake3(data[:start]).digest())
    for at in range(start, len(data), 100):
        total.update(blake3(data[at : at + 100]).digest())
    assert ref.digest == total.hexdigest() == ref_of(memoryview(data)).digest


def test_the_hash_is_that_of_the_published_vectors():
    """The first 32 bytes of `hash` in BLAKE3's test_vectors.json, for these lengths of input."""
    data = bytes(at % 251 for at in range(1025))
    assert HASH(b"").hexdigest() == (
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    )
    assert HASH(data).hexdigest() == (
        "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"
    )


def test_what_is_not_written_yet_has_the_name_that_it_gets(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "BLOCK_BYTES", 96)
    ref = container_ref(tensors(), FACTS)
    written = write_container(tmp_path / "p", tensors(), FACTS)
    assert (ref, ref.hashes) == (written, written.hashes)


def test_what_has_a_name_is_written_without_being_hashed_again(tmp_path, written, monkeypatch):
    path, _ = written
    ref = container_ref(tensors(), FACTS)
    monkeypatch.setattr(container, "hash_blocks", None)
    assert write_container(tmp_path / "again", tensors(), FACTS, ref=ref) is ref
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_name_of_something_else_is_not_taken(tmp_path):
    ref = container_ref(tensors(), FACTS)
    without_hashes = ContainerRef.from_json(ref.to_json())
    for values, facts, name in (
        ({**tensors(), "scalar": torch.ones(2)}, FACTS, ref),
        (tensors(), {**FACTS, "round": 4}, ref),
        (tensors(), FACTS, without_hashes),
    ):
        with pytest.raises(PayloadError, match=f"payload {ref.digest[:12]} has other tensors"):
            write_container(tmp_path / "p", values, facts, ref=name)
    assert not list(tmp_path.iterdir())


def test_damage_is_found_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "BLOCK_BYTES", 100)
    path = tmp_path / "p"
    ref = write_container(path, {name: torch.ones(20) for name in "abcd"}, {})
    data = path.read_bytes()
    body = len(data) - 320
    for at, where in ((9, "its header"), (body + 99, "a to b"), (body + 100, "b to c"),
                      (len(data) - 1, "d to d")):  # fmt: skip
        path.write_bytes(data[:at] + b"!" + data[at + 1 :])
        assert first_difference(path, ref) == f" of {where}"
    path.write_bytes(data)
    assert first_difference(path, ref) == ""
    assert first_difference(tmp_path / "none", ref) == ""


def test_writing_twice_gives_the_same_bytes(tmp_path, written):
    path, ref = written
    assert write_container(tmp_path / "again", tensors(), FACTS) == ref
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def remade(header: dict | bytes, body: bytes) -> tuple[memoryview, ContainerRef]:
    """A container with a right digest over a header that nobody here would write."""
    raw = header if isinstance(header, bytes) else json.dumps(header, ensure_ascii=False).encode(
        errors="surrogatepass"
    )  # fmt: skip
    raw += b" " * (-(8 + len(raw)) % ALIGN)
    data = memoryview(bytearray(len(raw).to_bytes(8, "little") + raw + body))
    return data, ref_of(data)


def about(facts: str = "{}", photon: str = "2") -> dict:
    return {"__metadata__": {"format": "pt", "photon": photon, "facts": facts}}


def entry(name="a", dtype="F32", shape=(16,), offset=0, end=None) -> tuple:
    """As a writer without any care would describe it."""
    end = offset + 64 if end is None else end
    return name, {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}


def test_what_the_next_tests_forge_is_read_where_it_is_sound():
    data, _ = remade({**about(), **dict([entry(), entry("b", offset=64)])}, bytes(128))
    assert list(parse_container(data)[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("entries", "body"),
    [
        ([entry(offset=64)], bytes(128)),
        ([entry(offset=-64)], bytes(64)),
        ([entry(), entry("b")], bytes(128)),
        ([entry(), entry("b", offset=32)], bytes(128)),
        ([entry(shape=(-1,))], bytes(64)),
        ([entry(shape=(1 << 40, 1 << 40))], bytes(64)),
        ([entry(shape=(17,))], bytes(64)),
        ([entry(shape=(17,), end=68)], bytes(64)),
        ([entry(shape=(True,))], bytes(64)),
        ([entry(shape=(True,), end=4)], bytes(4)),
        ([entry(shape=(0, 1 << 47, 1 << 47), end=0)], b""),
        ([entry(shape=(1,) * 17, end=4)], bytes(4)),
        ([entry(offset=False)], bytes(64)),
        ([entry(offset=0.0)], bytes(64)),
        ([entry(name="\ud800")], bytes(64)),
        ([entry(name="a" * 1001)], bytes(64)),
        ([entry(dtype="F128", end=128)], bytes(128)),
        ([entry(dtype=["F32"])], bytes(64)),
        ([entry(shape=(1,))], b"\1" * 64),
        ([entry(dtype="U8", end=16), entry("b", offset=16)], bytes(80)),
        ([("a", {"dtype": "F32", "shape": [16]})], bytes(64)),
        ([("a", {**entry()[1], "more": 1})], bytes(64)),
        ([("a", 3)], bytes(64)),
        ([entry()], bytes(128)),
    ],
)
def test_a_header_that_does_not_fit_its_body_is_refused(entries, body):
    data, _ = remade({**about(), **dict(entries)}, body)
    with pytest.raises(PayloadError):
        parse_container(data)


ABOUT = json.dumps(about()).encode()


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{}", b'"a"', b'{"__metadata__": 1}', b'{"__metadata__": {}}', b"\xff\xfe",
     ABOUT[:-1] + b', "a": 1}', ABOUT[:-1] + b", " + ABOUT[1:], b" " + ABOUT, ABOUT + b"\n",
     ABOUT.replace(b": ", b":"), ABOUT.decode().encode("utf-16"), b"[" * 200_000,
     ABOUT.replace(b'"{}"}', b'"{}", "more": "1"}'), ABOUT.replace(b'"pt"', b'"np"'),
     *(json.dumps(about(facts), ensure_ascii=False).encode()
       for facts in ('{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 1}', ' {}', '{"a":1}', "[]", "1",
                     '{"a": ' + "[" * 33 + "]" * 33 + "}", '{"a": ' + "9" * 5000 + "}",
                     '{"a": "\\ud800"}', "[" * 200_000, "")),
     json.dumps(about(photon="3")).encode()],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(header):
    data, _ = remade(header, b"")
    with pytest.raises(PayloadError, match="malformed header"):
        parse_container(data)


def test_another_format_is_named():
    data, _ = remade(about(photon="3"), b"")
    with pytest.raises(PayloadError, match="format 3; here is format 2"):
        parse_container(data)


def test_of_a_hundred_thousand_mutants_none_is_read_as_something_else(monkeypatch):
    """Half of them keep the digest they came with, half have a right one, so that it is the parser
    that must hold; see the benchmark, which does a million."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from fuzz_container import fuzz

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
        ContainerRef.from_json(value)


def test_another_payload_in_its_place_is_refused(written, tmp_path):
    path, ref = written
    other = write_container(tmp_path / "other", {"a": torch.zeros(3)}, {})
    with pytest.raises(
        PayloadError, match=f"not the {other.size} bytes of payload {other.digest[:12]}"
    ):
        open_container(path, other)
    with pytest.raises(PayloadError, match="cannot be read"):
        open_container(tmp_path / "missing", ref)


def test_what_does_not_travel_is_refused(tmp_path):
    with pytest.raises(PayloadError, match=r"a: torch\.bool does not travel"):
        write_container(tmp_path / "p", {"a": torch.zeros(1, dtype=torch.bool)}, {})
    for facts in ({"a": float("inf")}, {"a": object()}, {"a": "\ud800"}):
        with pytest.raises(PayloadError, match="facts that do not travel"):
            write_container(tmp_path / "p", {}, facts)
    with pytest.raises(StorageError, match="cannot write"):
        write_container(tmp_path / "no" / "such" / "p", {}, {})
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
    assert_same(*open_container(tmp_path / "copy", ref))


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
    [b"PHOTON\r\n\0\1\0\0\0\0", bytes(64), (57).to_bytes(8, "little") + bytes(56),
     ((16 << 20) + 1).to_bytes(8, "little") + bytes(64), b"\1\0\0", b""],
)  # fmt: skip
def test_a_frame_that_is_none_is_refused(frame):
    with pytest.raises(PayloadError, match="payload: no container"):
        ref_of(memoryview(frame))


def test_tensors_of_many_sizes_fall_over_blocks_as_one_piece_would(tmp_path, monkeypatch):
    """Small blocks, many hashes at a time: what is read is what was written."""
    monkeypatch.setattr(container, "BLOCK_BYTES", 96)
    generator = torch.Generator().manual_seed(1)
    values = {str(n): torch.randn(n, generator=generator) for n in (1, 15, 16, 17, 47, 48, 1000)}
    values = {"odd": torch.ones(3, dtype=torch.int8), **values}
    path = tmp_path / "p"
    found, _ = open_container(path, write_container(path, values, {}))
    assert all(torch.equal(found[name], value) for name, value in values.items())
    assert not any(value.data_ptr() % value.element_size() for value in found.values())


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "hash_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_container(tmp_path / "p", {}, {})
    assert not list(tmp_path.iterdir())
