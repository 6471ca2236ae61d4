"""MDS folders, written byte by byte from the format's description, and what becomes of them."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from photon.cli.main import run
from photon.data.manifest import clients_of, read_manifest
from photon.data.mds.format import read_index, read_samples
from photon.data.mds.importing import import_mds, token_bytes
from photon.data.read.shards import Rows
from photon.data.read.verify import verify
from photon.data.tokenizer import train_tokenizer
from photon.errors import DataError


def encode(encoding: str, values: list[int]) -> bytes:
    """A column's value; the dtype of its numbers is the last letter-digit part of the encoding."""
    kind, *given = encoding.split(":")
    if kind == "bytes":
        return struct.pack(f"<{len(values)}q", *values)
    letter = {"int32": "i", "uint16": "H", "int64": "q", "uint64": "Q"}[
        given[0] if given else "int32"
    ]
    body = struct.pack(f"<{len(values)}{letter}", *values)
    if len(given) == 2:
        return body
    shape = bytes([1 << 2 | 0, len(values)]) if len(values) < 256 else (
        bytes([1 << 2 | 1]) + struct.pack("<H", len(values)))  # fmt: skip
    return (b"" if given else bytes([33])) + shape + body


def write_mds(
    folder: Path,
    samples: list[list[int]],
    encoding: str = "ndarray:int32",
    *,
    compression: str | None = None,
    extra: bool = False,
    per_shard: int = 5,
) -> None:
    """An MDS folder; `extra` adds a column of text before and one of a fixed size after."""
    folder.mkdir(parents=True)
    size = len(samples[0]) * 4 if encoding.count(":") == 2 else None
    columns = [("tokens", encoding, size)]
    if extra:
        columns = [("source", "str", None), *columns, ("weight", "int", 8)]
    names, encodings, sizes = (list(part) for part in zip(*columns, strict=True))
    shards = []
    for first in range(0, len(samples), per_shard):
        data = _shard_bytes(samples[first : first + per_shard], columns)
        name = f"shard.{len(shards):05d}.mds"
        raw = {"basename": name, "bytes": len(data), "hashes": {}}
        packed = None
        if compression:
            data = zstandard.ZstdCompressor().compress(data)
            packed = {
                "basename": name + ".zstd",
                "bytes": len(data),
                "hashes": {"sha1": hashlib.sha1(data).hexdigest(), "xxh64": "0"},
            }
        (folder / (packed or raw)["basename"]).write_bytes(data)
        shards.append(
            {
                "column_encodings": encodings, "column_names": names, "column_sizes": sizes,
                "compression": compression, "format": "mds", "hashes": ["sha1", "xxh64"],
                "raw_data": raw, "samples": len(samples[first : first + per_shard]),
                "size_limit": 1 << 26, "version": 2, "zip_data": packed,
            }
        )  # fmt: skip
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))


def _shard_bytes(samples: list[list[int]], columns: list) -> bytes:
    header = json.dumps({"version": 2}).encode()
    bodies = []
    for number, tokens in enumerate(samples):
        values = {"source": b"x" * number, "weight": struct.pack("<q", number)}
        parts = [encode(e, tokens) if n == "tokens" else values[n] for n, e, _ in columns]
        variable = [len(p) for p, (_, _, size) in zip(parts, columns, strict=True) if size is None]
        bodies.append(struct.pack(f"<{len(variable)}I", *variable) + b"".join(parts))
    start = 4 + 4 * (len(samples) + 1) + len(header)
    offsets = [start + sum(map(len, bodies[:n])) for n in range(len(samples) + 1)]
    head = struct.pack("<I", len(samples)) + struct.pack(f"<{len(offsets)}I", *offsets)
    return head + header + b"".join(bodies)


def samples_of(count: int, length: int = 12, seed: int = 0, top: int = 280) -> list[list[int]]:
    """Pieces of one stream, which begins with token 0."""
    stream = np.random.default_rng(seed).integers(0, top, count * length)
    stream[0] = 0
    return stream.reshape(count, length).tolist()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["some words to make merges of, words and more words"] * 9, 280).save(str(path))
    return path


@pytest.mark.parametrize(
    "encoding", ["ndarray:int32", "ndarray:int32:12", "ndarray", "ndarray:uint16", "bytes"]
)
@pytest.mark.parametrize("compression", [None, "zstd", "zstd:7"])
@pytest.mark.parametrize("extra", [False, True])
def test_samples_are_those_that_were_written(tmp_path, encoding, compression, extra):
    samples = samples_of(13)
    write_mds(tmp_path / "m", samples, encoding, compression=compression, extra=extra)
    shards = read_index(tmp_path / "m")
    assert [shard.samples for shard in shards] == [5, 5, 3]
    assert [tokens.tolist() for shard in shards for tokens in read_samples(shard)] == samples


def test_long_samples_have_wider_shapes(tmp_path):
    samples = samples_of(3, length=2048)
    write_mds(tmp_path / "m", samples)
    (shard,) = read_index(tmp_path / "m")
    assert [tokens.tolist() for tokens in read_samples(shard)] == samples


def test_a_tree_becomes_clients_with_a_row_a_sample(tmp_path, tokenizer, capsys):
    tree = {f"client_{c}/{p}": samples_of(9 if p == "train" else 4, seed=10 * c + len(p))
            for c in (0, 1) for p in ("train", "validation")}  # fmt: skip
    for name, samples in tree.items():
        write_mds(tmp_path / "mds" / name, samples, compression="zstd")
    out = tmp_path / "out"
    arguments = ["data", "import", str(tmp_path / "mds"), str(out), "--tokenizer", str(tokenizer)]
    assert run(arguments) == 0
    assert "9 samples of 12 tokens -> 9 rows, 1 token added, 0 left out" in capsys.readouterr().out
    tree["validation"] = tree["client_0/validation"] + tree["client_1/validation"]
    for name, samples in tree.items():
        rows = Rows(out / name)
        batch = rows.read(np.arange(len(rows)))
        assert batch[:, :-1].tolist() == samples, "the inputs are the samples"
        following = [sample[0] for sample in samples[1:]] + [samples[0][0]]
        assert batch[:, -1].tolist() == following, "the last target is what comes next"
        assert rows.manifest["remainder_tokens"] == 0
    manifest = read_manifest(out)
    assert manifest["settings"]["num_clients"] == 2
    assert manifest["train_tokens"] == 2 * 9 * 12
    assert len(verify(out)) == 5
    assert run(arguments) == 2
    assert "is not empty" in capsys.readouterr().err


def test_imported_data_can_be_trained_on(tmp_path, tokenizer, smoke):
    import photon

    for client in (0, 1):
        write_mds(tmp_path / "mds" / f"client_{client}", samples_of(60, 32, client))
    import_mds(tmp_path / "mds", tmp_path / "out", tokenizer)
    overrides = [f"dataset.train.root_local={tmp_path / 'out'}", "fl.n_rounds=1"]
    quick = ["photon.workers=0", "compare.centralized=false", "compare.alone=false"]
    result = photon.train(smoke(*overrides, *quick))
    assert result.federated is not None
    assert 0 < result.federated.bits_per_byte < 100


def test_clients_may_have_written_other_types(tmp_path, tokenizer):
    """No integer holds all of uint64 and int64: numpy joins them as float64."""
    encodings = ["ndarray:uint64", "ndarray:int64"]
    for client, encoding in enumerate(encodings):
        write_mds(tmp_path / "mds" / f"client_{client}", samples_of(20, seed=client), encoding)
    import_mds(tmp_path / "mds", tmp_path / "out", tokenizer)
    rows = Rows(tmp_path / "out" / "validation")
    last = [samples_of(20, seed=client)[-1] for client in range(2)]
    assert rows.read(np.arange(len(rows)))[:, :-1].tolist() == last


def test_a_single_folder_holds_its_last_samples_out(tmp_path, tokenizer):
    samples = samples_of(20)
    write_mds(tmp_path / "mds", samples)
    import_mds(tmp_path / "mds", tmp_path / "out", tokenizer.parent, held_out=0.2)
    parts = {name: Rows(tmp_path / "out" / name)
             for name in ("client_0/train", "client_0/validation", "validation")}  # fmt: skip
    read = {name: rows.read(np.arange(len(rows)))[:, :-1].tolist() for name, rows in parts.items()}
    assert read["client_0/train"] == samples[:16]
    assert read["client_0/validation"] == read["validation"] == samples[16:]


def test_bytes_behind_tokens_add_up_to_the_text(tokenizer):
    from photon.data.tokenizer import load_tokenizer

    vocabulary = load_tokenizer(tokenizer)
    text = "more words, naïve ☃ words\n"
    ids = vocabulary.encode(text).ids
    assert token_bytes(vocabulary)[ids].sum() == len(text.encode())
    assert token_bytes(vocabulary)[0] == 0


def sentence_pieces(decoder) -> Tokenizer:
    """As SentencePiece's: a space belongs to the word behind it and stands before the first too."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    made.train_from_iterator(
        ["the parser adds an argument to the group of the parser"] * 9, trainer
    )
    model = json.loads(made.to_str())
    for token in (f"<0x{byte:02X}>" for byte in range(256)):
        model["model"]["vocab"][token] = len(model["model"]["vocab"])
    made = Tokenizer.from_str(json.dumps(model))
    made.decoder, made.pre_tokenizer = decoder, None
    return made


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Sequence(
            [
                decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    ],
)  # fmt: skip
def test_bytes_behind_pieces_with_spaces_add_up_too(decoder):
    vocabulary = sentence_pieces(decoder)
    text = "the parser adds ☃ to the group of an argument"
    ids = vocabulary.encode(text).ids
    assert len(ids) < len(text), "pieces of several letters"
    assert vocabulary.token_to_id("<0xE2>") in ids, "and bytes"
    assert vocabulary.decode(ids) == text
    assert token_bytes(vocabulary)[ids].sum() == len(text.encode()) + 1, "the space before it all"


def test_clients_keep_their_numbers(tmp_path, tokenizer):
    for client in (4, 5):
        write_mds(tmp_path / "mds" / f"client_{client}", samples_of(20, seed=client))
    manifest = import_mds(tmp_path / "mds", tmp_path / "out", tokenizer)
    assert clients_of(manifest) == range(4, 6)
    assert (
        Rows(tmp_path / "out/client_5/train").read(np.arange(1))[0, :-1].tolist()
        == (samples_of(20, seed=5)[0])
    )
    assert len(verify(tmp_path / "out")) == 5


@pytest.mark.parametrize("name", ["client_2", "client_00"])
def test_clients_with_holes_between_them_are_refused(tmp_path, tokenizer, name):
    for folder in ("client_0", name):
        write_mds(tmp_path / "mds" / folder, samples_of(20))
    with pytest.raises(DataError, match=r"mds: after client_00? comes client_[02]+; clients are"):
        import_mds(tmp_path / "mds", tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()


def spoil_index(folder: Path, change) -> None:
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(version=1), "MDS version 1; version 2 can be read"),
        (lambda i: i["shards"][0].update(format="json"), "a shard of format json version 2"),
        (lambda i: i["shards"][0].update(column_names=["text"]), "no column 'tokens', only text"),
        (lambda i: i["shards"][0].update(column_encodings=["pkl"]), "is encoded as pkl"),
        (lambda i: i["shards"][0].update(column_encodings=["ndarray:float32"]), "float32"),
        (lambda i: i["shards"][0].update(compression="br"), "compression 'br'"),
        (lambda i: i["shards"][0].update(compression=3), "compression 3; zstd or none"),
        (lambda i: i["shards"][0].pop("samples"), "not an index of MDS shards"),
        (lambda i: i["shards"][0].update(samples=-1), "not an index .*samples -1"),
        (lambda i: i["shards"][0].update(column_encodings=[]), "not an index .*0 encodings"),
        (lambda i: i["shards"][0].update(column_encodings=[3]), "not an index of MDS shards"),
        (lambda i: i["shards"][0].update(column_sizes=["x"]), "not an index .*column_sizes"),
        (lambda i: i["shards"][0]["raw_data"].update(bytes=10**13), "not an index .*bytes 1000"),
        (lambda i: i["shards"][0]["raw_data"].update(basename="../x"), "not an index .*basename"),
    ],
)
def test_an_index_of_something_else_is_named(tmp_path, change, message):
    write_mds(tmp_path / "m", samples_of(3))
    spoil_index(tmp_path / "m", change)
    with pytest.raises(DataError, match=rf"m/index.json: .*{message}"):
        read_index(tmp_path / "m")


def test_damaged_shards_are_named(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"train/index.json: no MDS data here"):
        import_mds(tmp_path / "nothing", tmp_path / "out", tokenizer)
    folder = tmp_path / "m"
    write_mds(folder, samples_of(5))
    path = folder / "shard.00000.mds"
    content = path.read_bytes()

    def failure(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            import_mds(folder, tmp_path / "out", tokenizer)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "bytes, the index says" in failure(content[:-3])
    assert "says [9] samples, the index 5" in failure(b"\x09" + content[1:])
    (start,) = struct.unpack("<I", content[4 + 8 : 4 + 12])
    broken = content[:start] + b"\x01" + content[start + 1 :]
    assert f"sample 2 at offset {start:,} is damaged (its columns do not fill it)" in failure(
        broken
    )
    (start,) = struct.unpack("<I", content[4:8])
    broken = content[: start + 4] + b"\x08" + content[start + 5 :]
    assert "sample 0 at offset" in failure(broken)
    path.unlink()
    with pytest.raises(DataError, match=r"shard.00000.mds: cannot read the shard"):
        import_mds(folder, tmp_path / "out", tokenizer)


def test_compressed_shards_are_checked(tmp_path):
    write_mds(tmp_path / "m", samples_of(5), compression="zstd")
    (shard,) = read_index(tmp_path / "m")
    content = shard.path.read_bytes()
    shard.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"mds.zstd: its sha1 is not the index's"):
        list(read_samples(shard))
    spoil_index(tmp_path / "m", lambda i: i["shards"][0]["zip_data"].update(hashes={}))
    (shard,) = read_index(tmp_path / "m")
    shard.path.write_bytes(b"no zstd")
    with pytest.raises(DataError, match=r"mds.zstd: cannot decompress"):
        list(read_samples(shard))
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 22))
    shard.path.write_bytes(bomb)
    with pytest.raises(DataError, match=rf"{shard.raw_bytes + 1:,} bytes, the index says"):
        list(read_samples(shard))


def test_no_room_is_made_for_what_an_index_claims(tmp_path):
    write_mds(tmp_path / "m", samples_of(5), compression="zstd")
    (shard,) = read_index(tmp_path / "m")
    claimed = (1 << 32) - 1
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"bytes, the index says {claimed:,}"):
        list(read_samples(replace(shard, raw_bytes=claimed)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1 << 26


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([*samples_of(3), [1, 2]], "a sample of 2 tokens among samples of 12"),
        ([*samples_of(3), [280] * 12], "token 280 is not in the tokenizer's vocabulary of 280"),
        ([*samples_of(3), [-5, *[3] * 11]], "token -5 is not in the tokenizer's vocabulary of 280"),
        ([[], [], []], "a sample of 0 tokens; rows need at least one"),
        ([samples_of(1)[0]], "too few samples for a training and a validation part"),
    ],
)
def test_samples_that_make_no_rows_are_named(tmp_path, tokenizer, samples, message):
    write_mds(tmp_path / "m", samples)
    with pytest.raises(DataError, match=message):
        import_mds(tmp_path / "m", tmp_path / "out", tokenizer)
    assert not (tmp_path / "out").exists()
