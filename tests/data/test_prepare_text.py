"""`photon prepare` on any text: exact counts, exact resumption, nothing lost, clear refusals."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from photon.config.prepare import PrepareConfig
from photon.data.manifest import read_manifest
from photon.data.prepare import assemble, pipeline, routing
from photon.data.prepare.assemble import unfinished
from photon.data.prepare.corpus import Document
from photon.data.prepare.part import read_digests
from photon.data.prepare.routing import text_digest
from photon.data.prepare.summary import held_out_lines, summarise
from photon.data.prepare.text import prepare_text
from photon.data.prepare.writer import ShardWriter
from photon.data.read.shards import Rows
from photon.data.read.verify import verify
from photon.data.tokenizer import load_tokenizer, train_tokenizer
from photon.errors import DataError, StorageError

WORDS = [f"word{i}" for i in range(300)]
L = 16


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 40)))


def write_c4(folder: Path, files: int = 3, documents: int = 60) -> None:
    """C4-shaped: lines of {text, timestamp, url}, gzipped, training and validation files."""
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"c4-train.{i:05d}-of-{files:05d}.json.gz" for i in range(files)]
    for name in (*names, "c4-validation.00000-of-00001.json.gz"):
        lines = [
            {"text": f"{name} {i} {sentence(draw)}", "timestamp": "t", "url": f"u{i % 5}"}
            for i in range(documents)
        ]
        with gzip.open(folder / name, "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([sentence(draw) for _ in range(300)], 400).save(str(path))
    return str(path)


@pytest.fixture
def c4(tmp_path) -> Path:
    write_c4(tmp_path / "c4")
    return tmp_path / "c4"


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def run(source: Path, out: str = "out", clients: int = 2, **keys):
        keys = {"tokenizer": tokenizer, "shuffle_documents": 25, **keys}
        config = PrepareConfig(source=str(source), **keys)
        return prepare_text(tmp_path / out, config, clients, L)

    return run


def parts_of(root: Path) -> dict[str, dict]:
    clients = sorted(path.name for path in root.glob("client_*"))
    names = ["validation", *(f"{c}/{p}" for c in clients for p in ("train", "validation"))]
    return {name: read_manifest(root / name) for name in names}


def bytes_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def documents_in(root: Path, name: str, tokenizer: str) -> list[str]:
    """Whole documents of a folder, decoded from its rows."""
    rows = Rows(root / name).read(np.arange(len(Rows(root / name))))
    stream = [int(rows[0, 0]), *rows[:, 1:].flatten().tolist()]
    text = load_tokenizer(Path(tokenizer)).decode(stream, skip_special_tokens=False)
    return text.split("<|endoftext|>")[:-1]


def texts_of(folder: Path, kind: str) -> list[str]:
    found = []
    for path in sorted(folder.glob(f"*{kind}*")):
        with gzip.open(path, "rt") as file:
            found += [json.loads(line)["text"] for line in file]
    return found


def test_every_document_is_somewhere_once_and_the_counts_add_up(prepare, c4, tmp_path, tokenizer):
    manifest = prepare(c4)
    parts, totals = parts_of(tmp_path / "out"), manifest["totals"]
    assert totals["documents"] == 240
    assert totals["written"] == sum(part["documents"] for part in parts.values()) == 240
    assert totals["text_tokens"] == sum(part["text_tokens"] for part in parts.values())
    assert totals["text_tokens"] == (
        totals["tokens"] + totals["first_tokens"] + totals["remainder_tokens"]
    )
    assert totals["text_bytes"] == sum(
        len(text.encode()) for kind in ("train", "validation") for text in texts_of(c4, kind)
    )
    for part in parts.values():
        assert sum(part["unigram"]) == part["text_tokens"]
        assert part["unigram"][0] == part["documents"]  # exactly one separator behind each
    found = {name: documents_in(tmp_path / "out", name, tokenizer) for name in parts}
    train = texts_of(c4, "train")
    for name, texts in found.items():
        assert set(texts) <= set(train if name.endswith("/train") else texts_of(c4, "validation"))
        assert len(texts) >= parts[name]["documents"] - 1
    everything = [text for texts in found.values() for text in texts]
    assert len(everything) == len(set(everything))
    assert found["client_0/train"] != [t for t in train if t in found["client_0/train"]]  # shuffled


def test_document_hashes_are_kept(prepare, c4, tmp_path):
    prepare(c4)
    kept = np.concatenate([read_digests(tmp_path / "out" / n) for n in parts_of(tmp_path / "out")])
    expected = [text_digest(t) for kind in ("train", "validation") for t in texts_of(c4, kind)]
    assert sorted(kept.tolist()) == sorted(expected)


def test_a_summary_needs_the_frequencies_of_tokens(prepare, c4, tmp_path):
    prepare(c4)
    path = tmp_path / "out/client_1/train/manifest.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({key: whole[key] for key in whole if key != "unigram"}))
    with pytest.raises(DataError, match=r"client_1/train/manifest.json: has no unigram"):
        summarise(tmp_path / "out")


@pytest.mark.parametrize("splits", [["train"], ["train_small", "val_small"]])
def test_all_files_that_are_not_what_they_are_called_are_named_at_once(prepare, tmp_path, splits):
    """It stopped at the first, and an hour after that was mended at the next."""
    write_c4(tmp_path / "text", 20)
    good = sorted((tmp_path / "text").iterdir())[0].read_bytes()
    bad = {"b.json.gz": b"version https://git-lfs", "c.jsonl.zst": b"", "d.parquet": b"PAR1PAR2",
           "e.parquet": b"<html>"}  # fmt: skip
    for name, data in {**bad, "empty.json.gz": b"", "good.json.gz": good}.items():
        (tmp_path / "text" / name).write_bytes(data)
    told = re.escape(
        "4 of 27 files cannot be read (b.json.gz: no gzip; c.jsonl.zst: no zstd; d.parquet: "
        "Parquet that is cut off; e.parquet: no Parquet); fetch them again, or remove them"
    )
    if splits != ["train"]:
        told = "damaged or cut off|cannot read it|pyarrow"  # as it comes to one: it may not need it
    with pytest.raises(DataError, match=told):
        prepare(tmp_path / "text", splits=splits)


def test_hashes_that_are_damaged_are_found_and_not_counted_with(prepare, c4, tmp_path):
    prepare(c4, clients=2)
    out = tmp_path / "out"
    assert [client.overlap for client in summarise(out)] == [0, 0]
    hashes = out / "client_1/validation/documents.bin"
    whole = hashes.read_bytes()
    hashes.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=r"documents.bin: its SHA-256 is not the manifest's"):
        verify(out)
    hashes.write_bytes(whole[:-8])
    with pytest.raises(DataError, match=r"documents.bin: ends at offset"):
        verify(out)
    assert [client.overlap for client in summarise(out)] == [None, None]
    hashes.unlink()  # as in a copy that comes from a store
    verify(out)
    assert [client.overlap for client in summarise(out)] == [None, None]


def test_splits_are_cut_to_their_size_and_shared_out(prepare, c4, tmp_path, monkeypatch):
    from photon.data.prepare import splits

    small = splits.Split("train_small", "train", 2)  # of 2048 tokens: 256 rows of 16
    few = splits.Split("val_xxsmall", "validation", 1)
    monkeypatch.setitem(splits.SPLITS, "train_small", small)
    monkeypatch.setitem(splits.SPLITS, "val_xxsmall", few)
    write_c4(c4, documents=120)
    manifest = prepare(c4, clients=3, splits=["train_small", "val_xxsmall"])
    rows = {name: part["rows"] for name, part in parts_of(tmp_path / "out").items()}
    assert [rows[f"client_{c}/train"] for c in range(3)] == [86, 85, 85]
    assert rows["validation"] == 128
    assert [rows[f"client_{c}/validation"] for c in range(3)] == [43, 43, 42]
    totals = manifest["totals"]
    assert totals["documents"] == totals["written"] + totals["skipped"] < 480
    assert totals["remainder_tokens"] == 0
    assert totals["cut_tokens"] > 0


def test_a_document_that_is_cut_counts_with_the_text_that_is_kept(prepare, tmp_path, tokenizer,
                                                                 monkeypatch):  # fmt: skip
    from photon.data.prepare import splits

    few = splits.Split("val_xxsmall", "validation", 1)  # of 2048 tokens
    monkeypatch.setitem(splits.SPLITS, "val_xxsmall", few)
    draw = random.Random(3)
    (tmp_path / "s").mkdir()
    write_lines(tmp_path / "s" / "train.jsonl", [sentence(draw) for _ in range(60)])
    long = ["x y z " * 4000 + " ".join(sentence(draw) for _ in range(900)) for _ in range(9)]
    write_lines(tmp_path / "s" / "validation.jsonl", long)
    totals = prepare(tmp_path / "s", splits=["train", "val_xxsmall"])["totals"]
    assert totals["cut_tokens"] > 0
    for name, part in parts_of(tmp_path / "out").items():
        text = text_of(tmp_path / "out", name, tokenizer)
        assert part["text_bytes"] == pytest.approx(len(text.encode()), rel=0.05), name
        if "validation" in name:
            assert part["text_bytes"] == pytest.approx(len(text.encode()), abs=2), name


def test_an_unequal_partition_is_cut_as_a_whole(prepare, c4, tmp_path, monkeypatch):
    from photon.data.prepare import splits

    small = splits.Split("train_small", "train", 2)
    monkeypatch.setitem(splits.SPLITS, "train_small", small)
    keys = {"splits": ["train_small"], "partition": "dirichlet", "alpha": 1.0}
    prepare(c4, source_column="url", **keys)
    rows = {name: part["rows"] for name, part in parts_of(tmp_path / "out").items()}
    assert sum(count for name, count in rows.items() if name.endswith("/train")) == 256


@pytest.mark.parametrize("clients", [2, 40])
def test_a_document_costs_no_look_at_every_client(tmp_path, monkeypatch, clients):
    """Of a set that is cut as a whole: what all have is counted on, not summed up each time."""
    spec = pipeline.DatasetSpec(clients=range(clients), sequence_length=4, most_train_rows=99)
    making = pipeline.Pipeline(tmp_path, spec, 300, lambda ends: {})
    looks, rows = [], ShardWriter.rows
    counted = property(lambda self: looks.append(self) or rows.fget(self))  # pyright: ignore
    monkeypatch.setattr(ShardWriter, "rows", counted)
    document = routing.Routed(Document("d", "s", "text"), 1, "client_1/train", (1,))
    making._take(document, np.arange(9), None)  # pyright: ignore[reportArgumentType]
    assert making._room("client_1/train") == 99 - 2
    assert len(set(map(id, looks))) == 1
    making.save()
    making.close()
    going_on = pipeline.Pipeline(tmp_path, spec, 300, lambda ends: {})
    assert going_on._room("client_0/train") == 99 - 2
    going_on.close()


KILLED = """
import os, signal
from pathlib import Path
from photon.config.prepare import PrepareConfig
from photon.data.prepare import pipeline
from photon.data.prepare.text import prepare_text
pipeline.Pipeline._when_due = lambda self, *_: self.totals.documents % 33 or self.save()
from photon.data.prepare import encode
encode.BATCH_CHARACTERS = 2000
take, taken = pipeline.Pipeline._take, 0
def counting(self, *arguments):
    global taken
    take(self, *arguments)
    taken += 1
    if taken == {after}:
        os.kill(os.getpid(), signal.SIGKILL)
pipeline.Pipeline._take = counting
prepare_text(Path({out!r}), PrepareConfig(**{keys!r}), 2, 16)
"""


@pytest.mark.parametrize("wrap", [True, False])
def test_a_killed_preparation_ends_with_the_same_bytes(prepare, c4, tmp_path, tokenizer, wrap):
    prepare(c4, "whole", wrap=wrap)
    keys = {
        "source": str(c4), "tokenizer": tokenizer, "shuffle_documents": 25, "wrap": wrap
    }  # fmt: skip
    for after in (70, 140):  # the second one is killed in the validation files
        code = KILLED.format(out=str(tmp_path / "cut"), keys=keys, after=after)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "cut").exists()
        journal = pipeline.read_journal(unfinished(tmp_path / "cut"))
        assert journal is not None
    assert journal["phase"] == 1
    said: list[str] = []
    prepare_text(tmp_path / "cut", PrepareConfig(**keys), 2, L, said.append)
    assert any("resuming    after 198 documents" in line for line in said)
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    assert os.listdir(tmp_path / "cut") == os.listdir(tmp_path / "whole")
    assert not unfinished(tmp_path / "cut").exists()


def test_interrupted_work_is_not_mixed_with_other_settings(prepare, c4, tmp_path, tokenizer):
    keys = {"source": str(c4), "tokenizer": tokenizer, "shuffle_documents": 25}
    code = KILLED.format(out=str(tmp_path / "out"), keys=keys, after=70)
    subprocess.run([sys.executable, "-c", code], capture_output=True)
    with pytest.raises(DataError, match=r"interrupted preparation, prepared with seed=9176, asked"):
        prepare(c4, seed=1)
    write_c4(c4, documents=61)
    with pytest.raises(
        DataError, match=r"interrupted preparation, prepared from other text \(c4-t"
    ):
        prepare(c4)


class Killed(BaseException):
    """Ends a process; nothing tidies up after it."""


def stop_at(patch, number: int, error: BaseException) -> list[int]:
    """Raise an error at a step to the disk or to another name; counts the steps."""
    steps = [0]

    def counting(real):
        def step(*arguments, **keys):
            steps[0] += 1
            if steps[0] == number:
                raise error
            return real(*arguments, **keys)

        return step

    for name in ("fsync", "rename", "replace", "unlink"):
        patch.setattr(os, name, counting(getattr(os, name)))
    return steps


@pytest.mark.parametrize(
    ("error", "is_there", "each"),
    [(Killed(), False, 2), (Killed(), True, 5), (OSError(28, "No space left"), False, 5)],
)
def test_finishing_may_fail_at_any_step(prepare, tmp_path, monkeypatch, error, is_there, each):
    """Whatever was reached, the same command goes on, to the same bytes."""
    draw = random.Random(12)
    source = write_lines(tmp_path / "a.jsonl", [sentence(draw) for _ in range(40)])
    keys = {"clients": 1, "validation_fraction": 0.2}
    monkeypatch.setattr(
        pipeline.Pipeline, "_when_due", lambda self, *_: self.totals.documents == 40 and self.save()
    )
    (tmp_path / "whole").mkdir() if is_there else None
    with monkeypatch.context() as patch:
        steps = stop_at(patch, 0, error)
        prepare(source, "whole", **keys)
    whole = bytes_of(tmp_path / "whole")
    for number in range(steps[0], 0, -each):
        out = tmp_path / f"out{number}"
        out.mkdir() if is_there else None
        with monkeypatch.context() as patch:
            stop_at(patch, number, error)
            with pytest.raises((Killed, StorageError)):
                prepare(source, out.name, **keys)
        prepare(source, out.name, **keys)
        assert {n: d for n, d in bytes_of(out).items() if n != "lock"} == whole, number
        assert not list(tmp_path.glob(".*")), number


def test_a_link_and_the_folder_one_stands_in_are_filled(prepare, c4, tmp_path, monkeypatch):
    for name in ("real", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "lost+found").mkdir()  # of a disk that is mounted there
    prepare(c4, "link")
    monkeypatch.chdir(tmp_path / "here")
    config = PrepareConfig(source=str(c4), tokenizer=None, vocab_size=300)
    prepare_text(Path(), config, 2, L)
    assert os.listdir() != []
    assert (tmp_path / "link").is_symlink()
    for name in ("real", "here"):
        assert (tmp_path / name / "manifest.json").exists()
        assert not [p for p in (tmp_path / name).glob(".*") if p.name != ".gitignore"]


def test_two_preparations_at_once_say_it_once(prepare, c4, tmp_path, tokenizer, monkeypatch):
    folder = unfinished(tmp_path / "out")
    folder.mkdir()
    said: list[str] = []
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        naps: list[float] = []

        def nap(seconds: float) -> None:
            naps.append(seconds)
            if len(naps) == 3:
                fcntl.flock(lock, fcntl.LOCK_UN)

        monkeypatch.setattr(assemble.time, "sleep", nap)
        keys = PrepareConfig(source=str(c4), tokenizer=tokenizer, shuffle_documents=25)
        prepare_text(tmp_path / "out", keys, 2, L, said.append)
    assert len([line for line in said if line.startswith("waiting ")]) == 1


def test_other_clients_are_other_data(prepare, c4):
    prepare(c4, first_client=4)
    with pytest.raises(DataError, match="prepared with first_client=4, asked for first_client=0"):
        prepare(c4)
    prepare(c4, "zero")
    with pytest.raises(DataError, match="prepared with first_client=0, asked for first_client=4"):
        prepare(c4, "zero", first_client=4)


def test_an_interrupted_preparation_goes_on_with_touched_files(
    prepare, c4, tmp_path, tokenizer, monkeypatch
):
    prepare(c4, "whole")
    keys = {"source": str(c4), "tokenizer": tokenizer, "shuffle_documents": 25}
    code = KILLED.format(out=str(tmp_path / "out"), keys=keys, after=70)
    subprocess.run([sys.executable, "-c", code], capture_output=True)
    for path in c4.iterdir():
        os.utime(path)
    whole, touched = bytes_of(tmp_path / "whole"), prepare(c4)
    assert touched["digest"] == json.loads(whole["manifest.json"])["digest"]
    subprocess.run([sys.executable, "-c", code.replace("out'", "cut'")], capture_output=True)
    for path in c4.glob("c4-train*"):
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DataError, match=r"other text \(c4-train.* has other content\)"):
        prepare(c4, "cut")


def test_a_second_run_changes_nothing_and_refuses_what_changed(prepare, c4, tmp_path, tokenizer):
    first = prepare(c4)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare(c4) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(DataError, match="prepared with num_clients=2, asked for num_clients=3"):
        prepare(c4, clients=3)
    other = tmp_path / "other.json"
    other.write_text(json.dumps(json.loads(Path(tokenizer).read_text()) | {"padding": None}))
    with pytest.raises(DataError, match=r"prepared with tokenizer=tokenizer.json \w+, asked for"):
        prepare(c4, tokenizer=str(other))
    (c4 / "c4-train.00003-of-00003.json.gz").write_bytes(gzip.compress(b'{"text": "new"}\n'))
    with pytest.raises(DataError, match=r"other text \(c4-train.00003-of-00003.json.gz is new\)"):
        prepare(c4)
    assert bytes_of(tmp_path / "out")["manifest.json"]


def test_touching_a_file_changes_nothing(prepare, c4):
    first = prepare(c4)
    for path in c4.iterdir():
        os.utime(path)
    assert prepare(c4) == first


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_empty_documents_and_copies_are_counted(prepare, tmp_path):
    draw = random.Random(2)
    texts = [sentence(draw) for _ in range(80)]
    source = write_lines(tmp_path / "a.jsonl", [*texts, "", "  \n", "", *texts[:5]])
    totals = prepare(source, validation_fraction=0.1, shuffle_documents=1000)["totals"]
    assert (totals["empty"], totals["copies"], totals["documents"]) == (3, 5, 83)
    assert totals["documents"] + totals["stretches"] == totals["written"] + 3
    totals = prepare(source, "stream", validation_fraction=0.2)["totals"]  # four blocks
    assert (totals["empty"], totals["copies"], totals["written"]) == (3, 0, 85)


def test_text_files_beside_records_are_read_too(prepare, tmp_path):
    draw = random.Random(7)
    texts = [f"{i} {sentence(draw)}" for i in range(60)]
    folder = tmp_path / "mixed"
    folder.mkdir()
    write_lines(folder / "a.jsonl", texts[:20])
    for i, text in enumerate(texts[20:]):
        (folder / f"{i}.TXT").write_text(text)
    (folder / "notes.pdf").write_bytes(b"")
    for shuffled in (1000, 25):  # all known, and as a stream
        manifest = prepare(folder, f"out{shuffled}", validation_fraction=0.2,
                           shuffle_documents=shuffled)  # fmt: skip
        assert manifest["totals"]["text_bytes"] == sum(map(len, texts))
        assert manifest["left_out"] == {"of another kind": {"files": 1, "names": ["notes.pdf"]}}


def test_equal_texts_of_a_stream_share_a_place(prepare, tmp_path):
    draw = random.Random(3)
    texts = [sentence(draw) for _ in range(60)] * 3
    prepare(write_lines(tmp_path / "a.jsonl", texts), validation_fraction=0.2)
    places = [
        set(read_digests(tmp_path / "out" / name).tolist()) for name in parts_of(tmp_path / "out")
    ]
    assert sum(map(len, places)) == len(set.union(*places)) == 60


def test_one_document_longer_than_everything(prepare, tmp_path):
    draw = random.Random(4)
    texts = [sentence(draw) for _ in range(80)]
    texts[40] = " ".join(sentence(draw) for _ in range(3000))
    manifest = prepare(write_lines(tmp_path / "a.jsonl", texts), validation_fraction=0.2)
    totals = manifest["totals"]
    assert (totals["documents"], totals["stretches"], totals["written"]) == (80, 2, 82)
    assert totals["text_bytes"] == sum(map(len, texts))


def text_of(root: Path, name: str, tokenizer: str) -> str:
    """All text of a folder but for what its last row leaves over, without separators."""
    rows = Rows(root / name).read(np.arange(len(Rows(root / name))))
    stream = [int(rows[0, 0]), *rows[:, 1:].flatten().tolist()]
    return load_tokenizer(Path(tokenizer)).decode(
        [t for t in stream if t], skip_special_tokens=False
    )


def held_out_shares(root: Path) -> dict[str, float]:
    """Share of validation in the tokens of each client, and in those of all."""
    tokens = {name: part["text_tokens"] for name, part in parts_of(root).items()}
    clients = sorted({name.split("/")[0] for name in tokens if "/" in name})
    shares = {"all": tokens["validation"] / sum(tokens.values())}
    for client in clients:
        own = tokens[f"{client}/validation"]
        shares[client] = own / (own + tokens[f"{client}/train"])
    return shares


@pytest.mark.parametrize("partition", ["iid", "source", "size", "dirichlet"])
def test_one_text_file_is_enough_for_several_clients(prepare, tmp_path, tokenizer, partition):
    draw = random.Random(8)
    text = "\n\n".join(f"{i:05d} {sentence(draw)}" for i in range(1500))
    (tmp_path / "play.txt").write_text(text)
    keys = {"partition": partition, "size_exponent": 0.5, "alpha": 5.0}
    totals = prepare(tmp_path / "play.txt", clients=4, **keys)["totals"]
    assert (totals["documents"], totals["stretches"]) == (1, 8)
    assert totals["text_bytes"] == len(text)
    assert held_out_shares(tmp_path / "out") == pytest.approx(
        dict.fromkeys(["all", *(f"client_{c}" for c in range(4))], 0.05), rel=0.2
    )
    marks = set(range(1500))
    for name in parts_of(tmp_path / "out"):
        found = text_of(tmp_path / "out", name, tokenizer)
        numbers = [int(number) for number in re.findall(r"\b\d{5}\b", found)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # contiguous
        assert found.startswith(f"{numbers[0]:05d} ")  # cut at a paragraph
        assert marks >= set(numbers)
        marks -= set(numbers)  # in no other part
    assert len(marks) <= 9  # in the tails of the last rows


def test_an_author_of_one_book_can_be_a_client(prepare, tmp_path):
    draw = random.Random(9)
    for author in range(20):
        folder = tmp_path / "books" / f"author{author:02d}"
        folder.mkdir(parents=True)
        lines = [sentence(draw) for _ in range(int(draw.lognormvariate(6, 1)) + 40)]
        (folder / "book.md").write_text("\n".join(lines))
    prepare(tmp_path / "books", clients=20, partition="source")
    shares = held_out_shares(tmp_path / "out")
    assert shares == pytest.approx(dict.fromkeys(shares, 0.05), rel=0.2)
    for client in range(20):
        for part in ("train", "validation"):
            manifest = read_manifest(tmp_path / "out" / f"client_{client}/{part}")
            assert manifest["sources"] == [f"author{client:02d}"]
    common, each = held_out_lines(tmp_path / "out")
    assert re.match(
        r"common: [\d,]+ tokens, [45]\.\d % of all, from author00, author01, author02 and 17 more",
        common,
    )
    assert re.match(r"clients 0-19: 4\.\d to 5\.\d % of each one's tokens", each)


def test_rows_without_a_source_are_shown_as_such(prepare, tmp_path):
    draw, rows = random.Random(9), []
    for number in range(60):
        rows.append({"text": sentence(draw) * 3, "from": [None, "de"][number % 2]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "a.jsonl", source_column="from")
    assert "from (none), de" in held_out_lines(tmp_path / "out")[0]


def test_what_was_held_out_of_whom_is_told(prepare, tmp_path):
    draw = random.Random(11)
    (tmp_path / "texts").mkdir()
    for i in range(6):  # the common set takes one whole, and with it all there is of its source
        (tmp_path / "texts" / f"text{i}.txt").write_text(sentence(draw) * 6)
    prepare(tmp_path / "texts", validation_fraction=0.17)
    lines = held_out_lines(tmp_path / "out")
    assert [line.split(":")[0] for line in lines[:3]] == ["common", "client 0", "client 1"]
    common = re.search(r"from (text\d)", lines[0])
    assert common is not None
    gone = [line for line in lines[3:] if common[1] in line]
    assert gone == [f"no training text is left of 1 source: {common[1]}"]


def test_long_documents_of_a_stream_give_their_ends(prepare, tmp_path):
    """Every document is its stretches put together, all of one client but the common end."""
    draw = random.Random(10)
    texts = [f"<{i}> " + " ".join(sentence(draw) for _ in range(300)) for i in range(24)]
    prepare(write_lines(tmp_path / "a.jsonl", texts), shuffle_documents=10)
    shares = held_out_shares(tmp_path / "out")
    assert shares == pytest.approx(dict.fromkeys(shares, 0.05), rel=0.2)
    documents = {n: part["documents"] for n, part in parts_of(tmp_path / "out").items()}
    for client in ("client_0", "client_1"):
        assert documents[f"{client}/train"] == documents[f"{client}/validation"]
    assert documents["validation"] == 24


def test_too_little_text_for_the_clients_is_named(prepare, tmp_path):
    (tmp_path / "a.txt").write_text("much too little")
    with pytest.raises(DataError, match="the text is too small for 2 clients"):
        prepare(tmp_path / "a.txt")


def test_without_wrap_rows_stay_within_a_document(prepare, c4, tmp_path, tokenizer):
    prepare(c4, wrap=False)
    tokens = load_tokenizer(Path(tokenizer))
    known = {(*tokens.encode(t).ids, 0) for t in texts_of(c4, "train")}
    expected = {d[i : i + 17] for d in known for i in range(0, len(d) - 16, 16)}
    rows = Rows(tmp_path / "out/client_0/train")
    found = {tuple(row) for row in rows.read(np.arange(len(rows))).tolist()}
    assert found <= expected
    assert len(found) > 100


def test_separators_are_not_doubled(prepare, c4, tmp_path):
    prepare(c4, "same", bos_text="<|endoftext|>", eos_text="<|endoftext|>")
    prepare(c4, "plain")
    name = "client_0/train/shard_00000.bin"
    assert bytes_of(tmp_path / "same")[name] == bytes_of(tmp_path / "plain")[name]
    with pytest.raises(DataError, match=r"has no token <s>$"):
        prepare(c4, "other", bos_text="<s>")


def test_text_that_spells_the_separator_is_text(prepare, tmp_path):
    draw = random.Random(5)
    texts = [f"{sentence(draw)} <|endoftext|> {sentence(draw)}" for _ in range(60)]
    prepare(write_lines(tmp_path / "a.jsonl", texts), shuffle_documents=1000)
    for part in parts_of(tmp_path / "out").values():
        assert part["unigram"][0] == part["documents"]


def test_a_tokenizer_trained_here_never_sees_held_out_text(prepare, tmp_path, monkeypatch):
    from photon.data.prepare import text as module

    seen: list[str] = []
    train = module.train_tokenizer
    monkeypatch.setattr(
        module, "train_tokenizer", lambda texts, size: train(seen.extend(texts) or seen, size)
    )
    draw = random.Random(6)
    texts = [f"unique{i} {sentence(draw)}" for i in range(120)]
    manifest = prepare(
        write_lines(tmp_path / "a.jsonl", texts),
        tokenizer=None,
        vocab_size=300,
        validation_fraction=0.2,
    )
    assert manifest["settings"]["vocab_size"] == 300
    trained = {d for c in range(2) for d in read_digests(tmp_path / f"out/client_{c}/train")}
    assert {text_digest(text) for text in seen} == trained
    assert len(trained) < 120


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.txt", ""), ("empty.jsonl", '{"text": ""}\n{"text": null}\n' * 40)],
)
def test_empty_texts_are_named(prepare, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name}: every text is empty; add text"):
        prepare(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: the text to train on is empty; add text"):
        prepare(tmp_path / name, tokenizer=None, vocab_size=260)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_fewer_rows_than_clients(prepare, tmp_path, monkeypatch):
    source = write_lines(tmp_path / "a.jsonl", [f"short {i}" for i in range(60)])
    with pytest.raises(DataError, match=r"client_0/\w+: \d+ tokens do not fill one row of 16 \+ 1"):
        prepare(source, clients=8, shuffle_documents=1000)
    with pytest.raises(DataError, match=r"12800 rows for validation are too few for 20000 clients"):
        prepare(source, "x", clients=20_000, splits=["train", "val_xxsmall"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_a_full_disk_leaves_earlier_output_alone_and_can_go_on(prepare, c4, tmp_path, monkeypatch):
    prepare(c4, "earlier")
    before = bytes_of(tmp_path / "earlier")
    monkeypatch.setattr(pipeline, "JOURNAL_SECONDS", 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            prepare(c4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out").exists()
    prepare(c4)
    assert bytes_of(tmp_path / "earlier") == before == bytes_of(tmp_path / "out")


def test_an_unreadable_journal_is_named(prepare, c4, tmp_path):
    folder = unfinished(tmp_path / "out")
    folder.mkdir()
    (folder / "journal.msgpack").write_bytes(b"\xc1")
    with pytest.raises(DataError, match=r"journal\.msgpack: unreadable"):
        prepare(c4)


def test_blocks_end_where_memory_does(c4, prepare, tmp_path, monkeypatch):
    prepare(c4, "whole", shuffle_documents=7)
    monkeypatch.setattr(routing, "BLOCK_CHARACTERS", 1000)
    manifest = prepare(c4, "blocks", shuffle_documents=10_000)
    assert manifest["totals"]["written"] == 240


@pytest.mark.parametrize("name", ["none/tokenizer.json", "none.json", "./none"])
def test_a_missing_tokenizer_is_named(prepare, c4, tmp_path, name):
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        prepare(c4, tokenizer=str(tmp_path / name))


def test_the_home_of_nobody_is_named(prepare, c4):
    for source, keys in (("~nosuch/t", {}), (c4, {"tokenizer": "~nosuch/t.json"})):
        with pytest.raises(DataError, match=r"^~nosuch/t.*: ~nosuch is no home folder here"):
            prepare(source, **keys)


def test_a_hub_tokenizer_that_is_not_given_is_one_line(prepare, c4):
    with pytest.raises(DataError, match=r"tokenizer 'some/name': no such file .*\(.+\); name a"):
        prepare(c4, tokenizer="some/name")  # the tests are offline


@pytest.mark.parametrize(
    "source", ["nosuch/", "nosuch.jsonl", "nosuch.parquet", "./nosuch", "a/b/c"]
)
def test_a_path_that_is_not_there_is_no_name_on_the_hub(source):
    from photon.data.prepare.text import is_local

    assert is_local(source)
    assert not is_local("allenai/c4")
