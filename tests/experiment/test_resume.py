"""Stop anywhere and go on: the bits of the uninterrupted run, and nothing trained twice."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import crash
import pytest

import photon
from forked import Forked, is_alive
from photon.container.container import digest
from photon.data.read.verify import verify
from photon.errors import (
    CorruptCheckpoint,
    DataError,
    Interrupted,
    MismatchedCheckpoint,
    RunFolderError,
    StorageError,
)
from photon.report.console import progress_line
from photon.run import checkpoint
from photon.run.listing import run_status
from photon.run.saved_model import load_saved_model
from photon.run.trackers import read_lines
from photon.server import commits as server
from photon.training import loop
from photon.training.loop import Trainer

SHAPE = ["fl.n_rounds=4", "llm_config.local_steps=5", "llm_config.save_interval=2",
         "llm_config.eval_interval=7", "llm_config.max_duration=20"]  # fmt: skip


def overrides(data_root: Path, saving: Path, *more: str) -> list[str]:
    return ["recipe=smoke", f"dataset.train.root_local={data_root}",
            f"photon.saving_path={saving}", "run_uuid=run", *SHAPE, *more]  # fmt: skip


MACHINE = {
    "client_metrics",
    "device_busy",
    "mean_metrics",
    "peak_memory",
    "bytes_up",
    "bytes_by_kind",
    "client_bytes",
}


def outcome(run: Path) -> tuple[str, list[dict]]:
    """Digest of the final parameters, and the metrics without times and memory."""
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    lines = [
        {k: v for k, v in line.items() if "second" not in k and k not in MACHINE}
        for line in read_lines(run / "metrics.jsonl")
    ]
    return digest(checkpoint.load_parameters(newest)), lines


VARIANTS = {
    "moments averaged": [],
    "moments kept": ["fl.aggregate_momenta=false", "llm_config.optimizer.name=adamw"],
    "centralized": [],
}


@pytest.fixture(scope="module")
def uninterrupted(data_root, tmp_path_factory) -> dict[str, tuple[str, list[dict]]]:
    results = {}
    for name, more in VARIANTS.items():
        home = tmp_path_factory.mktemp("whole")
        photon.train(overrides(data_root, home, *more), centralized=name == "centralized")
        results[name] = outcome(home / "run")
    return results


def train_until_killed(moment: str, count: int, kind: str, given: list[str], log: Path) -> None:
    killed = Forked(crash.train, moment, count, kind, given, log=log)
    assert killed.wait() == -signal.SIGKILL, log.read_text()


KILLS = [
    ("moments averaged", "step", 1),
    ("moments averaged", "step", 24),
    ("moments kept", "step", 33),
    ("centralized", "step", 12),
    ("moments averaged", "between rounds", 2),
    ("moments kept", "between rounds", 3),
    ("moments averaged", "in the middle of writing tensors", 9),
    ("moments kept", "in the middle of writing tensors", 23),
    ("centralized", "in the middle of writing tensors", 4),
    *(("moments kept", "tensors written, manifest not", n) for n in (1, 4, 5, 12, 13)),
    *(("moments averaged", "manifest written", n) for n in (3, 4, 5, 10)),
    ("centralized", "manifest written", 3),
]


@pytest.mark.parametrize(("variant", "moment", "count"), KILLS)
def test_killed_at_any_moment(data_root, tmp_path, uninterrupted, variant, moment, count):
    kind = "centralized" if variant == "centralized" else "federated"
    given = overrides(data_root, tmp_path, *VARIANTS[variant])
    train_until_killed(moment, count, kind, given, tmp_path / "log")
    photon.resume(tmp_path / "run")
    parameters, lines = outcome(tmp_path / "run")
    expected_parameters, expected_lines = uninterrupted[variant]
    assert parameters == expected_parameters
    assert lines == expected_lines
    leftovers = [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    assert not leftovers


def steps_taken(monkeypatch) -> list[int]:
    taken: list[int] = []
    factor = loop.lr_factor

    def counted(schedule, number):
        taken.append(number)
        return factor(schedule, number)

    monkeypatch.setattr(loop, "lr_factor", counted)
    return taken


def test_finished_clients_of_the_open_round_are_not_trained_again(data_root, tmp_path, monkeypatch):
    """Killed in the second client's first segment of round 2: that client's steps are all left. The
    first one's update may not be on the disk yet: then its last segment, a step, is trained anew.
    """
    given = overrides(data_root, tmp_path)
    train_until_killed("step", 16, "federated", given, tmp_path / "log")
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    again = [9] * (len(taken) - (4 * 2 * 5 - 15))
    assert len(again) <= 1
    assert taken[: len(again) + 5] == [*again, 5, 6, 7, 8, 9]


def test_at_most_one_segment_of_one_client_is_lost(data_root, tmp_path, monkeypatch):
    """Killed in the fifth step of a client: the four steps of two segments are kept."""
    given = overrides(data_root, tmp_path)
    train_until_killed("step", 15, "federated", given, tmp_path / "log")
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    assert taken[0] == 9
    assert len(taken) == 4 * 2 * 5 - 14


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("after", [0, 3, 17])
def test_a_stop_request_saves_and_resumes(
    data_root, tmp_path, uninterrupted, monkeypatch, variant, after
):
    counter = itertools.count()
    step = Trainer._gradient

    def step_then_signal(self, rows, number):
        if next(counter) == after:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, rows, number)

    monkeypatch.setattr(Trainer, "_gradient", step_then_signal)
    with pytest.raises(Interrupted, match=r"photon train --resume .*run") as caught:
        photon.train(
            overrides(data_root, tmp_path, *VARIANTS[variant]),
            centralized=variant == "centralized",
        )
    assert caught.value.exit_code == 143
    monkeypatch.setattr(Trainer, "_gradient", step)
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    total = 20 if variant == "centralized" else 40
    assert len(taken) == total - (after + 1), "the current step ended and none is repeated"
    parameters, lines = outcome(tmp_path / "run")
    assert parameters == uninterrupted[variant][0]
    if variant != "centralized":
        assert lines == uninterrupted[variant][1]


def test_the_command_stops_with_workers_and_leaves_no_orphan(data_root, tmp_path):
    given = overrides(data_root, tmp_path, "photon.workers=2")
    given += ["llm_config.local_steps=1000000", "llm_config.save_interval=50"]
    run = tmp_path / "run"
    command = [sys.executable, "-m", "photon", "train", "--quiet", *given]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        workers = wait_for_workers(process.pid, 2)
        wait_until(lambda: len(list(run.rglob("train.json"))) == 2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"photon train --resume {run}" in errors
    lines = [line for line in errors.splitlines() if not line.startswith("photon: note: ")]
    assert len(lines) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    facts = [json.loads(path.read_text())["facts"] for path in run.rglob("train.json")]
    saved = [one["state"]["steps_done"] for one in facts]
    assert len(saved) == 2
    assert all(steps >= 50 for steps in saved)


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.05)


def wait_for_workers(pid: int, count: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= count)
    return [int(child) for child in children.read_text().split()]


def test_workers_end_when_their_parent_is_killed_and_the_run_goes_on(
    data_root, tmp_path, uninterrupted
):
    given = overrides(data_root, tmp_path, "photon.workers=2", "llm_config.local_steps=5")
    process = subprocess.Popen([sys.executable, "-m", "photon", "train", *given])
    workers = wait_for_workers(process.pid, 2)
    metrics = tmp_path / "run/metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
    process.kill()
    process.wait()
    photon.resume(tmp_path / "run")
    assert outcome(tmp_path / "run")[0] == uninterrupted["moments averaged"][0]
    wait_until(lambda: not any(is_alive(pid) for pid in workers))


def test_a_killed_worker_is_replaced(data_root, tmp_path, uninterrupted, monkeypatch):
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out
    kills = iter([1, 3])
    due, count = next(kills), 0

    def hand_out_and_kill(pool, *args):
        nonlocal due, count
        hand_out(pool, *args)
        busy = [w for w in pool.workers if w.client is not None]
        if busy:
            count += 1
            if count == due:
                due = next(kills, 0)
                busy[0].process.kill()

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_kill)
    photon.train(overrides(data_root, tmp_path, "photon.workers=1"))
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]


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


@pytest.mark.parametrize("variant", ["moments averaged", "centralized"])
def test_a_corrupt_checkpoint_is_refused_and_the_last_good_one_goes_on(
    data_root, tmp_path, uninterrupted, variant
):
    """By the command that the message prints, to the same bits."""
    is_centralized = variant == "centralized"
    photon.train(overrides(data_root, tmp_path, *VARIANTS[variant]), centralized=is_centralized)
    run = tmp_path / "run"
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    (tensors,) = newest.parent.glob(f"{newest.stem}-base-*")
    data = bytearray(tensors.read_bytes())
    data[-3] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CorruptCheckpoint, match="are not those that were written") as refused:
        photon.resume(run)
    assert (run / "summary.json").exists()
    good = checkpoint.list_checkpoints(run / "checkpoints")[-2]
    assert f"the last good checkpoint is {good}; " in str(refused.value)
    with pytest.raises(CorruptCheckpoint, match=good.name):
        load_saved_model(run)
    printed = re.search(r"photon train --resume (\S+) (\S+)", str(refused.value))
    assert printed is not None
    photon.resume(Path(printed[1]), [printed[2]])
    (parameters, lines), expected = outcome(run), uninterrupted[variant]
    assert parameters == expected[0]
    assert [line["train_loss"] for line in lines] == [line["train_loss"] for line in expected[1]]


@pytest.mark.parametrize("variant", ["moments averaged", "centralized"])
def test_a_refused_resume_leaves_the_run_as_it_was(data_root, tmp_path, variant):
    """More of it is asked for, and its newest checkpoint is cut off: it has ended, as before."""
    is_centralized = variant == "centralized"
    photon.train(overrides(data_root, tmp_path), centralized=is_centralized)
    run, longer = tmp_path / "run", {True: "llm_config.max_duration=24", False: "fl.n_rounds=5"}
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    (tensors,) = newest.parent.glob(f"{newest.stem}-base-*")
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    before = {name: (run / name).read_bytes() for name in ("config.json", "run.json")}
    with pytest.raises(CorruptCheckpoint):
        photon.resume(run, [longer[is_centralized]])
    assert {name: (run / name).read_bytes() for name in before} == before
    assert run_status(run).state == "ended"
    tensors.write_bytes(whole)
    photon.resume(run, [longer[is_centralized]])
    assert (run / "config.json").read_bytes() != before["config.json"]
    photon.resume(run)
    assert checkpoint.number_of(checkpoint.newest_checkpoint(run / "checkpoints")) in (5, 24)


def test_going_back_to_a_damaged_round_deletes_none(data_root, tmp_path):
    keep = "llm_config.save_num_checkpoints_to_keep=9"
    run = Path(photon.train(overrides(data_root, tmp_path, keep)).folder)
    older, *_, newest = checkpoint.list_checkpoints(run / "checkpoints")
    file = next((run / "checkpoints").glob(f"{older.stem}-base-*"))
    file.write_bytes(file.read_bytes()[:-1])
    back = f"photon.resume_round={checkpoint.number_of(older)}"
    with pytest.raises(CorruptCheckpoint, match="later rounds are kept"):
        photon.resume(run, [back])
    assert checkpoint.list_checkpoints(run / "checkpoints")[-1] == newest
    photon.resume(run)


def test_where_no_checkpoint_is_good_it_is_said(data_root, tmp_path):
    photon.train(overrides(data_root, tmp_path, "llm_config.save_num_checkpoints_to_keep=1"))
    (manifest,) = (tmp_path / "run/checkpoints").glob("*.json")
    manifest.write_text("{")
    with pytest.raises(CorruptCheckpoint, match="keeps none before it that is good"):
        photon.resume(tmp_path / "run")


@pytest.mark.parametrize("variant", ["moments averaged", "centralized"])
def test_a_torn_last_line_is_written_anew(data_root, tmp_path, variant):
    is_centralized = variant == "centralized"
    photon.train(overrides(data_root, tmp_path, *VARIANTS[variant]), centralized=is_centralized)
    metrics = tmp_path / "run/metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-30])
    photon.resume(tmp_path / "run")
    assert metrics.read_bytes() == whole
    metrics.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1] + bytes(40))  # a power cut
    photon.resume(tmp_path / "run")
    assert metrics.read_bytes() == whole


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


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(data_root, tmp_path):
    run = Path(photon.train(overrides(data_root, tmp_path)).folder)
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CorruptCheckpoint, match="keeps none of the rounds that were committed, up"):
        photon.resume(run, ["fl.n_rounds=9"])
    assert (run / "metrics.jsonl").read_bytes() == before


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


def test_a_full_disk_keeps_the_last_round(data_root, tmp_path, uninterrupted, monkeypatch):
    """The third commit cannot be written; after space is made the run ends as if nothing was."""
    import resource

    saved, soft_hard = [], resource.getrlimit(resource.RLIMIT_FSIZE)
    save = checkpoint.save_server_state

    def save_until_full(folder, state, *more):
        if state.round == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, soft_hard[1]))
        saved.append(state.round)
        return save(folder, state, *more)

    monkeypatch.setattr(server, "save_server_state", save_until_full)
    try:
        with pytest.raises(StorageError, match="earlier checkpoints are intact"):
            photon.train(overrides(data_root, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, soft_hard)
        monkeypatch.setattr(server, "save_server_state", save)
    assert saved == [1, 2, 3]
    taken = steps_taken(monkeypatch)
    photon.resume(tmp_path / "run")
    assert len(taken) == 10, "round 3's clients had finished; only round 4 is trained"
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]


def test_a_lost_client_state_starts_fresh_and_is_reported(data_root, tmp_path):
    photon.train(overrides(data_root, tmp_path, *VARIANTS["moments kept"]))
    run = tmp_path / "run"
    for path in (run / "clients/client_1").iterdir():
        path.unlink()
    photon.resume(run, ["fl.n_rounds=5"])
    record = read_lines(run / "metrics.jsonl")[-1]
    assert record["state_lost"] == [1]
    assert progress_line(record, "federated").endswith("client 1 began afresh: its state is lost")


def test_a_damaged_client_state_is_refused_and_goes_on_as_the_message_says(data_root, tmp_path):
    photon.train(overrides(data_root, tmp_path, *VARIANTS["moments kept"]))
    run = tmp_path / "run"
    (tensors,) = (run / "clients/client_1").glob("round_000004-own-*")
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(damaged)
    with pytest.raises(CorruptCheckpoint, match=r"not those that were written; .* remove ") as told:
        photon.resume(run, ["fl.n_rounds=5"])
    Path(re.search(r"remove (\S+): client 1 then begins afresh", str(told.value))[1]).unlink()
    photon.resume(run, ["fl.n_rounds=5"])
    assert read_lines(run / "metrics.jsonl")[-1]["state_lost"] == [1]


def test_metrics_are_cut_back_to_the_last_commit(data_root, tmp_path, uninterrupted):
    given = overrides(data_root, tmp_path)
    train_until_killed("between rounds", 2, "federated", given, tmp_path / "log")
    metrics = tmp_path / "run/metrics.jsonl"
    with open(metrics, "a") as file:
        file.write('{"round": 3, "uncommitted": true}\n{"round": 4, "cut sho')
    photon.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]


def test_a_client_that_keeps_killing_its_worker_fails_the_round(data_root, tmp_path, monkeypatch):
    from photon.errors import RoundFailed
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out

    def hand_out_and_kill(pool, *args):
        hand_out(pool, *args)
        for worker in pool.workers:
            if worker.client == 1:
                worker.process.kill()

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_kill)
    with pytest.raises(RoundFailed, match="client 1 died 3 times"):
        photon.train(overrides(data_root, tmp_path, "photon.workers=1"))


def test_a_silent_worker_is_replaced(data_root, tmp_path, uninterrupted, monkeypatch):
    """Frozen, not dead: it is killed after the timeout, and its client goes on elsewhere."""
    from photon.node import engine as local

    hand_out = local.WorkerPool._hand_out
    frozen = []

    def hand_out_and_freeze(pool, *args):
        hand_out(pool, *args)
        busy = [w for w in pool.workers if w.client is not None]
        if busy and not frozen:
            frozen.append(busy[0].process.pid)
            os.kill(frozen[0], signal.SIGSTOP)

    monkeypatch.setattr(local.WorkerPool, "_hand_out", hand_out_and_freeze)
    photon.train(overrides(data_root, tmp_path, "photon.workers=1", "photon.worker_timeout=8"))
    assert outcome(tmp_path / "run") == uninterrupted["moments averaged"]
    assert not Path(f"/proc/{frozen[0]}").exists()


def test_what_is_open_on_resume_is_counted_on_the_machine_that_goes_on(tmp_path, data_root):
    photon.train(overrides(data_root, tmp_path, "fl.n_rounds=1", "photon.workers=0"))
    open_keys = ["fl.n_rounds=2", "photon.workers=auto", "photon.threads=auto"]
    assert photon.resume(tmp_path / "run", open_keys).rounds == 2
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["photon"]
    cores = len(os.sched_getaffinity(0))
    assert kept["workers"] == (0 if cores == 1 else min(cores, 2))
    assert kept["threads"] >= 1
