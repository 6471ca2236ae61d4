"""What a resume takes and what it refuses: more rounds, changed keys and data, a folder in use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from resuming import outcome, overrides

import photon
from photon.data.read.verify import verify
from photon.errors import DataError, MismatchedCheckpoint, RunFolderError, StorageError
from photon.run.trackers import read_lines


def test_more_rounds_on_resume_keep_the_schedule(data_root, tmp_path, uninterrupted):
    photon.train(overrides(data_root, tmp_path))
    result = photon.resume(tmp_path / "run", ["fl.n_rounds=6"])
    assert result.rounds == 6
    lines = outcome(tmp_path / "run")[1]
    strip = ("rounds",)
    before = [{k: v for k, v in x.items() if k not in strip} for x in lines[:4]]
    expected = [
        {k: v for k, v in x.items() if k not in strip} for x in uninterrupted["moments averaged"][1]
    ]
    assert before == expected
    assert len(lines) == 6
    again = photon.resume(tmp_path / "run")
    assert again.federated == result.federated, "resuming a finished run is a no-op"


def test_a_changed_model_or_data_is_refused_and_nothing_is_lost(data_root, tmp_path, smoke):
    photon.train(overrides(data_root, tmp_path))
    run = tmp_path / "run"
    before = outcome(run)
    for override in ("llm_config.model.d_model=32", "llm_config.optimizer.lr=1.0"):
        with pytest.raises(MismatchedCheckpoint, match=override.split("=")[0]):
            photon.resume(run, [override])
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "data_digest": "other"}))
    with pytest.raises(MismatchedCheckpoint, match="is not the data"):
        photon.resume(run, ["fl.n_rounds=6"])
    (run / "run.json").write_text(json.dumps(facts))
    assert outcome(run) == before


def test_shards_that_were_changed_are_refused_and_mended_ones_go_on(data_root, tmp_path):
    data, few = tmp_path / "data", ["fl.n_rounds=1", "llm_config.local_steps=2"]
    shutil.copytree(data_root, data)
    run = Path(photon.train(overrides(data, tmp_path, *few)).folder)
    shard = data / "client_1" / "train" / "shard_00000.bin"
    content = shard.read_bytes()
    shard.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=rf"{shard}: was changed .*prepare the data again"):
        photon.resume(run, ["fl.n_rounds=2"])
    shard.write_bytes(content)
    part, other = data / "client_1" / "train", data / "client_0" / "train"
    part.rename(tmp_path / "kept")
    shutil.copytree(other, part)  # sound in itself, and not what was prepared for this client
    with pytest.raises(DataError, match=rf"{part}: is of another data set than .*digest"):
        photon.resume(run, ["fl.n_rounds=2"])
    with pytest.raises(DataError, match="is of another data set"):
        verify(data)
    shutil.rmtree(part)
    (tmp_path / "kept").rename(part)
    photon.resume(run, ["fl.n_rounds=2"])
    assert [line["round"] for line in read_lines(run / "metrics.jsonl")] == [1, 2]


def test_one_process_a_run_folder(data_root, tmp_path):
    photon.train(overrides(data_root, tmp_path))
    run = tmp_path / "run"
    with pytest.raises(RunFolderError, match="already holds a run"):
        photon.train(overrides(data_root, tmp_path))
    code = f"""
import pathlib, time
from photon.run.run_folder import RunFolder
folder = RunFolder.open(pathlib.Path({str(run)!r}))
print("held", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another process is running this run"):
            photon.resume(run)
        holder.kill()
    photon.resume(run)


def test_a_run_that_could_not_be_created_leaves_no_lock(data_root, tmp_path, monkeypatch):
    from photon.run import run_folder

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "write_json", full)
    with pytest.raises(StorageError, match="cannot create the run folder"):
        photon.train(overrides(data_root, tmp_path))
    monkeypatch.undo()
    photon.train(overrides(data_root, tmp_path))


@pytest.mark.parametrize("kept", ["checkpoints", "metrics.jsonl", "chain.jsonl"])
def test_what_is_left_of_a_run_is_not_written_over(data_root, tmp_path, kept):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / kept).touch()
    given = overrides(data_root, run.parent)
    with pytest.raises(RunFolderError, match=f"has the {kept} of a run, and no run.json"):
        photon.train(given)
    assert list(run.iterdir()) == [run / kept]


def test_no_run_there(tmp_path):
    with pytest.raises(RunFolderError, match=r"no run here \(no run.json\)"):
        photon.resume(tmp_path / "nothing")


def test_what_is_open_on_resume_is_counted_on_the_machine_that_goes_on(tmp_path, data_root):
    photon.train(overrides(data_root, tmp_path, "fl.n_rounds=1", "photon.workers=0"))
    open_keys = ["fl.n_rounds=2", "photon.workers=auto", "photon.threads=auto"]
    assert photon.resume(tmp_path / "run", open_keys).rounds == 2
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["photon"]
    cores = len(os.sched_getaffinity(0))
    assert kept["workers"] == (0 if cores == 1 else min(cores, 2))
    assert kept["threads"] >= 1
