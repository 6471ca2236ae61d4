"""Killed in the middle of what is written behind the training: nothing is lost, or done twice."""

from __future__ import annotations

import json
import runpy
import signal
from pathlib import Path

import pytest
from history import faults_of_run
from test_kills import ROWS_PER_ROUND, final

import photon
from forked import Forked
from photon.cli.main import run as photon_command
from photon.node.client_files import ClientFiles
from photon.run.trackers import read_lines

KILLING = Path(__file__).with_name("killing")
ROUNDS, CLIENTS, LENGTH = 5, 2, 32
SHAPE = ["recipe=smoke", "run_uuid=run", f"fl.n_rounds={ROUNDS}", "fl.eval_period=null",
         "llm_config.save_num_checkpoints_to_keep=1", "photon.threads=1",
         "compare.alone=false", "compare.centralized=false"]  # fmt: skip
TIMES = {
    "client_metrics",
    "mean_metrics",
    "peak_memory",
    "device_busy",
    "bytes_up",
    "bytes_by_kind",
    "client_bytes",
}
ALL = [(number, client) for number in range(1, ROUNDS + 1) for client in range(CLIENTS)]
NEXT = ["clients/client_0/round_000003.json", "clients/client_1/round_000003.json"]
"""Both clients have done round 3."""
ROUND_2 = {
    "update half written": ("replace */client_0/round_000002-update.tmp.tmp", [], 2),
    "containers, no manifest": ("replace */client_1/round_000002.json.tmp", [], 3),
    "manifest, open state still there": ("unlink */client_1/train.json", [], 4),
    "base half written": ("replace */checkpoints/round_000002-base.tmp.tmp", NEXT, 6),
    "base, own not": ("replace */checkpoints/round_000002-own.tmp.tmp", NEXT, 6),
    "base and own, no manifest": ("replace */checkpoints/round_000002.json.tmp", NEXT, 6),
    "commit not pruned": ("unlink */checkpoints/round_000001.json", NEXT, 6),
}
"""Where in the second round -> operation, what has been done meanwhile, how many of `ALL` are."""


def given(data_root: Path, home: Path, *more: str) -> list[str]:
    return [*SHAPE, f"dataset.train.root_local={data_root}", f"photon.saving_path={home}", *more]


def kill(home: Path, at: str, until: list[str], **more) -> dict[str, str]:
    """The environment of a process that is killed there."""
    spec = {"at": at, "thread": "write-behind", "marker": str(home / "killed"), **more,
            "until": [str(home / "run" / path) for path in until]}  # fmt: skip
    return {"PHOTON_KILL": json.dumps(spec), "PYTHONPATH": str(KILLING)}


def outcome(run: Path) -> tuple[str, list[dict]]:
    lines = [{k: v for k, v in line.items() if "second" not in k and k not in TIMES}
             for line in read_lines(run / "metrics.jsonl")]  # fmt: skip
    return final(run), lines


def assert_sound(run: Path, undisturbed: tuple[str, list[dict]]) -> None:
    homes = {client: run / f"clients/client_{client}" for client in range(CLIENTS)}
    assert faults_of_run(run, homes, ROWS_PER_ROUND, LENGTH) == []
    assert outcome(run) == undisturbed
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]
    manifests = [path.stem for path in run.rglob("round_*.json")]
    containers = {path.name.split("-")[0] for path in run.rglob("round_*.safetensors")}
    assert containers == set(manifests), "containers that no manifest names"


@pytest.fixture(scope="module")
def undisturbed(data_root, tmp_path_factory) -> tuple[str, list[dict]]:
    return outcome(Path(photon.train(given(data_root, tmp_path_factory.mktemp("whole"))).folder))


@pytest.fixture
def trained(monkeypatch) -> list[tuple[int, int]]:
    """Round and client of what is trained in this process, in order."""
    found, keep = [], ClientFiles.keep

    def noted(files, instruction, *rest):
        found.append((instruction.round, instruction.client))
        return keep(files, instruction, *rest)

    monkeypatch.setattr(ClientFiles, "keep", noted)
    return found


def run_until_killed(home: Path, environment: dict[str, str], arguments: list[str]) -> None:
    log, one_thread = home / "log", {"OMP_NUM_THREADS": "1"}
    killed = Forked(command, arguments, log=log, environment={**one_thread, **environment})
    assert killed.wait() == -signal.SIGKILL, log.read_text()


def command(arguments: list[str]) -> int:
    """The command, killed where the environment says."""
    runpy.run_path(str(KILLING / "sitecustomize.py"))
    return photon_command(["train", "--quiet", *arguments])


@pytest.mark.parametrize("where", ROUND_2)
def test_in_the_one_process(data_root, tmp_path, undisturbed, trained, where):
    at, until, done = ROUND_2[where]
    arguments = given(data_root, tmp_path, "photon.workers=0")
    run_until_killed(tmp_path, kill(tmp_path, at, until, count=1 + ("train" in at),
                                    half="half" in where), arguments)  # fmt: skip
    photon.resume(tmp_path / "run")
    assert_sound(tmp_path / "run", undisturbed)
    ahead = [one for one in trained if one in ALL[:done]]
    assert trained == ALL[done:], f"trained twice, or not at all: {ahead}"


def test_while_an_update_is_examined(data_root, tmp_path, undisturbed, trained):
    """The fourth: both of the second round are on the disk."""
    spec = kill(tmp_path, "run examined", [], thread="judge", count=4)
    run_until_killed(tmp_path, spec, given(data_root, tmp_path, "photon.workers=0"))
    photon.resume(tmp_path / "run")
    assert_sound(tmp_path / "run", undisturbed)
    assert trained == ALL[4:]


def test_a_round_before_the_one_that_was_not_kept_can_be_gone_back_to(
    data_root, tmp_path, undisturbed
):
    """The states of clients are still there, though they have gone on by two rounds."""
    at, until, _ = ROUND_2["base and own, no manifest"]
    arguments = given(data_root, tmp_path, "photon.workers=0")
    run_until_killed(tmp_path, kill(tmp_path, at, until), arguments)
    photon.resume(tmp_path / "run", ["photon.resume_round=1"])
    assert_sound(tmp_path / "run", undisturbed)


def test_a_worker_that_writes_one_client_and_trains_another(
    data_root, tmp_path, undisturbed, monkeypatch
):
    """Both are tried again, by the worker that takes its place."""
    begins = ["clients/client_1/live.json"]
    spec = kill(tmp_path, "replace */client_0/round_000002-update.tmp.tmp", begins, half=True)
    for name, value in spec.items():
        monkeypatch.setenv(name, value)
    photon.train(given(data_root, tmp_path, "photon.workers=1"))
    assert (tmp_path / "killed").read_text().startswith("write-behind")
    assert_sound(tmp_path / "run", undisturbed)


def test_the_server_beside_its_workers(data_root, tmp_path, undisturbed, trained):
    """Its workers have done the next round before it is killed."""
    at, until, done = ROUND_2["base, own not"]
    arguments = given(data_root, tmp_path, "photon.workers=2")
    run_until_killed(tmp_path, kill(tmp_path, at, until), arguments)
    photon.resume(tmp_path / "run", ["photon.workers=0"])
    assert_sound(tmp_path / "run", undisturbed)
    assert trained == ALL[done:]
