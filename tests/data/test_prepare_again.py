"""`photon prepare` once more: after a kill, a fault or a change, and beside another one."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_texts import sentence, write_c4, write_lines
from prepared_parts import L, bytes_of

from photon.config.prepare import PrepareConfig
from photon.data.prepare import assemble, pipeline
from photon.data.prepare.assemble import unfinished
from photon.data.prepare.text import prepare_text
from photon.errors import DataError, StorageError

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
