"""Checkpoints, client states and metrics that are damaged or gone: refused, or mended and told."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from resuming import VARIANTS, outcome, overrides

import photon
from photon.errors import CorruptCheckpoint
from photon.report.console import progress_line
from photon.run import checkpoint
from photon.run.listing import run_status
from photon.run.saved_model import load_saved_model
from photon.run.trackers import read_lines


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


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(data_root, tmp_path):
    run = Path(photon.train(overrides(data_root, tmp_path)).folder)
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CorruptCheckpoint, match="keeps none of the rounds that were committed, up"):
        photon.resume(run, ["fl.n_rounds=9"])
    assert (run / "metrics.jsonl").read_bytes() == before


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
