"""A stopped run is ended where it is: with all that a run has which was meant to be so short."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

import photon
from photon.cli.main import run as photon_command
from photon.config import Config
from photon.container.container import digest
from photon.errors import Interrupted, MismatchedCheckpoint
from photon.experiment import experiment
from photon.experiment.job import EngineFactory
from photon.run import checkpoint
from photon.run.listing import run_status
from photon.run.results import read_summary
from photon.training.loop import Trainer

SHAPE = ["llm_config.local_steps=5", "llm_config.scheduler.schedulers.lr.t_max=20ba",
         "llm_config.scheduler.schedulers.lr.t_warmup=2ba", "compare.alone=false",
         "compare.centralized=false", "photon.workers=0", "fl.eval_period=3"]  # fmt: skip
WHOLE = {"federated": "fl.n_rounds=4", "centralized": "llm_config.max_duration=20"}
DONE = {"federated": "fl.n_rounds=2", "centralized": "llm_config.max_duration=9"}
TOO_FEW = {"federated": ("fl.n_rounds=1", 2), "centralized": ("llm_config.max_duration=8", 9)}
STOP = {"federated": 24, "centralized": 8}
"""Gradient in which the signal comes: in the third round, in the ninth step."""


@pytest.fixture(params=["federated", "centralized"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def stopped(kind, smoke, monkeypatch) -> Path:
    """A run that was stopped on its way."""
    counter, step = itertools.count(), Trainer._gradient

    def step_then_signal(self, rows, number):
        if next(counter) == STOP[kind]:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, rows, number)

    config: Config = smoke("run_uuid=stopped", *SHAPE, WHOLE[kind])
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_gradient", step_then_signal)
        with pytest.raises(Interrupted):
            photon.train(config, centralized=kind == "centralized")
    return Path(config.machine.runs_folder) / "stopped"


def parameters(run: Path) -> str:
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    return digest(checkpoint.load_parameters(newest))


def summary(run: Path, kind: str) -> dict:
    """summary.json, but for what is the run's own."""
    found = read_summary(run)
    del found["run"], found["folder"], found[kind]["seconds"]
    for way in ("bytes_up", "bytes_down"):  # headers hold measured seconds, in as many digits
        found[way] = pytest.approx(found[way], rel=0.01)
    return found


def test_it_is_summed_up_as_a_run_of_that_length(stopped, kind, smoke, capsys):
    assert run_status(stopped).state == "stopped"
    config = smoke("run_uuid=short", *SHAPE, DONE[kind])
    short = photon.train(config, centralized=kind == "centralized").folder
    assert photon_command(["train", "--resume", str(stopped), DONE[kind]]) == 0
    told = capsys.readouterr()
    assert "validation on the common set" in told.out
    assert f"with {DONE[kind]}: nothing is left to train" in told.err
    found, expected = run_status(stopped), run_status(short)
    assert found.state == expected.state == "ended"
    assert (found.done, found.total) == (expected.done, expected.total)
    assert found.val_loss == expected.val_loss
    assert parameters(stopped) == parameters(short)
    assert summary(stopped, kind) == summary(short, kind)
    assert photon_command(["report", str(stopped)]) == 0


def test_fewer_than_are_done_are_refused_by_number(stopped, kind, capsys):
    before = (stopped / "config.json").read_bytes()
    override, done = TOO_FEW[kind]
    assert photon_command(["train", "--resume", str(stopped), override]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{override.split('=')[0]}: may be lowered to the {done} that are done" in line
    assert (stopped / "config.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["federated"], indirect=True)
def test_it_needs_no_engine(stopped, monkeypatch):
    """So a server ends a run without waiting for its nodes."""

    def make(*_):
        raise AssertionError("nothing is left to train")

    result = experiment.resume(stopped, ["fl.n_rounds=2"], engine=EngineFactory("local", make))
    assert result.rounds == 2


@pytest.mark.parametrize("kind", ["federated"], indirect=True)
def test_the_round_to_go_back_to_counts(stopped):
    with pytest.raises(MismatchedCheckpoint, match="the 2 that are done"):
        photon.resume(stopped, ["fl.n_rounds=1"])
    photon.resume(stopped, ["photon.resume_round=1", "fl.n_rounds=1"])
    status = run_status(stopped)
    assert (status.state, status.done, status.total) == ("ended", 1, 1)


@pytest.mark.parametrize("kind", ["federated"], indirect=True)
def test_a_run_that_was_ended_and_made_longer_is_stopped_again(stopped):
    photon.resume(stopped, ["fl.n_rounds=2"])
    saved = json.loads((stopped / "config.json").read_text())
    saved["fl"]["n_rounds"] = 4  # as a resume leaves it that was killed at once
    (stopped / "config.json").write_text(json.dumps(saved))
    assert run_status(stopped).state == "stopped"
    photon.resume(stopped)
    assert (run_status(stopped).state, run_status(stopped).done) == ("ended", 4)
