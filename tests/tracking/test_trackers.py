"""TensorBoard and W&B say what metrics.jsonl says, each step once, and never stop a run."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import socket
import struct
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import photon
from photon.cli.main import run
from photon.config import Config, load_config
from photon.config.tracking import TensorboardLogger, WandbSetup
from photon.errors import ConfigError, PhotonWarning
from photon.run.trackers import JsonlTracker, Position, numbers, read_lines
from photon.server import commits as server
from photon.tracking import external as external_trackers
from photon.tracking import wandb_tracker
from photon.tracking.external import ExternalTrackers, require_trackers
from photon.tracking.tensorboard import TensorboardTracker
from photon.tracking.wandb_setup import effective_setup, init_arguments
from photon.tracking.wandb_tracker import WandbTracker

BOARD = "llm_config.loggers.tensorboard={}"
OFFLINE = ["use_wandb=true", "wandb.setup.mode=offline"]


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nobody answers


def asked_of(config: Config) -> tuple[TensorboardLogger | None, WandbSetup | None]:
    """What a configuration asks for outside of the run folder."""
    return config.inner.loggers.tensorboard, config.wandb_setup


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each curve, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def expected(lines: list[dict], key: str) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in numbers(line).items():
            curves.setdefault(name, []).append((line[key], float(np.float32(value))))
    return curves


def wandb_records(path: Path) -> list:
    """Records of a `.wandb` file: protobufs in LevelDB's log format, behind a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(Record.FromString(parts))
            parts = b""
    return found


def wandb_rows(records: list) -> dict[int, dict[str, float]]:
    rows: dict[int, dict[str, float]] = {}
    for record in records:
        if record.HasField("history"):
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json)
                   for item in record.history.item}  # fmt: skip
            assert row["_step"] not in rows, "logged twice"
            rows[row["_step"]] = {k: v for k, v in row.items() if not k.startswith("_")}
    return rows


def reproducible(row: dict[str, float]) -> dict[str, float]:
    """Without what depends on the clock and on the machine."""
    clocked = ("second", "memory", "busy")
    return {k: v for k, v in row.items() if not any(word in k for word in clocked)}


@pytest.fixture(scope="module")
def interrupted(data_root, tmp_path_factory) -> Path:
    """A run with both trackers that dies in round 2, after its record and before its commit."""
    home = tmp_path_factory.mktemp("runs")
    given = ["recipe=smoke", f"dataset.train.root_local={data_root}", f"photon.saving_path={home}",
             "fl.n_rounds=3", "run_uuid=run", BOARD, *OFFLINE]  # fmt: skip
    save = server.save_server_state

    def power_cut(folder, state, *more):
        if state.round == 2:
            raise RuntimeError("power cut")
        save(folder, state, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "save_server_state", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            photon.train(given)
    assert [line["round"] for line in read_lines(home / "run/metrics.jsonl")] == [1, 2]
    photon.resume(home / "run")
    return home / "run"


def test_tensorboard_shows_the_metrics_of_an_interrupted_run_each_step_once(interrupted):
    lines = read_lines(interrupted / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert scalars(interrupted / "tensorboard") == expected(lines, "round")


def test_wandb_has_the_metrics_of_an_interrupted_run_each_step_once(interrupted):
    files = sorted((interrupted / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    records = [record for path in files for record in wandb_records(path)]
    rows = wandb_rows(records)
    lines = read_lines(interrupted / "metrics.jsonl")
    assert list(rows) == [1, 2, 3]
    for line in lines:
        assert reproducible(rows[line["round"]]) == reproducible(numbers(line))
    assert rows[3] == numbers(lines[-1])


def test_a_resumed_run_is_the_same_run_at_wandb(interrupted):
    files = sorted((interrupted / "wandb").glob("offline-run-*/*.wandb"))
    for path in files:
        begin = next(r.run for r in wandb_records(path) if r.HasField("run"))
        assert (begin.run_id, begin.display_name) == ("run", "run_server")
        assert (begin.project, begin.run_group, list(begin.tags)) == (
            "photon", "llm", ["run_uuid_run"]
        )  # fmt: skip
        config = {item.key: json.loads(item.value_json) for item in begin.config.update}
        saved = json.loads((interrupted / "config.json").read_text())
        assert config["fl"] == saved["fl"]
    ends = [
        next(r.exit.exit_code for r in wandb_records(path) if r.HasField("exit")) for path in files
    ]
    assert ends == [1, 0]


def test_a_centralised_run_is_tracked_by_steps(smoke, tmp_path):
    photon.train(smoke("run_uuid=c", "llm_config.max_duration=5", BOARD), centralized=True)
    lines = read_lines(tmp_path / "runs/c/metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert scalars(tmp_path / "runs/c/tensorboard") == expected(lines, "step")


def test_what_a_crash_kept_from_the_disk_is_written_again(tmp_path):
    lines = [{"round": n, "loss": 1.0 / n} for n in range(1, 7)]
    first = TensorboardTracker(tmp_path, "round", 0, 2)
    metrics = JsonlTracker(tmp_path / "metrics.jsonl", "round", 0)
    for line in lines[:3]:
        metrics(line)
        first(line)
    assert Position(tmp_path / "tensorboard").read() == 2
    shutil.copytree(tmp_path / "tensorboard", tmp_path / "on_disk")
    for line in lines[3:5]:
        metrics(line)
        first(line)
    first.close(finished=False)
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "on_disk").rename(tmp_path / "tensorboard")
    metrics = JsonlTracker(tmp_path / "metrics.jsonl", "round", 4)
    again = TensorboardTracker(tmp_path, "round", 4, 4)
    for line in lines[4:]:
        metrics(line)
        again(line)
    again.close(finished=True)
    assert scalars(tmp_path / "tensorboard") == expected(lines, "round")


def test_a_tracker_that_comes_later_gets_the_whole_run(smoke, tmp_path):
    photon.train(smoke("run_uuid=l"))
    photon.resume(tmp_path / "runs/l", [BOARD, "fl.n_rounds=3"])
    lines = read_lines(tmp_path / "runs/l/metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert scalars(tmp_path / "runs/l/tensorboard") == expected(lines, "round")


def test_names_and_kinds(smoke, monkeypatch):
    """The baselines of a run are not runs of their own at W&B."""
    seen = []

    def remember(path, key, init, say):
        seen.append((path.name, key, init["name"], init["id"]))
        return SimpleNamespace(close=lambda finished: None)

    monkeypatch.setattr(external_trackers, "WandbTracker", remember)
    more = [*OFFLINE, "compare.centralized=true", "wandb.setup.id=x1", "fl.n_rounds=1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhotonWarning)  # it cannot be called
        photon.train(smoke("run_uuid=f", *more))
        photon.train(smoke("run_uuid=c", *OFFLINE, "llm_config.max_duration=1"), centralized=True)
    assert seen == [("f", "round", "f_server", "x1"), ("c", "step", "c_centralised", "c")]


def test_a_long_name_gives_a_tag_that_wandb_takes():
    found = init_arguments(WandbSetup(), "r" * 80, "server")
    assert found["tags"] == ["run_uuid_" + "r" * 55]
    assert found["id"] == "r" * 80


def test_not_logged_in_is_said_before_anything_is_made(tmp_path, capfd):
    home = tmp_path / "runs"
    given = ["recipe=smoke", "use_wandb=true", f"photon.saving_path={home}"]
    assert run(["train", *given]) == 2
    said = capfd.readouterr().err
    assert said.startswith("photon: use_wandb: not logged in (")
    assert "run `wandb login`, set WANDB_API_KEY, or wandb.setup.mode=offline" in said
    assert len(said.splitlines()) == 1
    assert not home.exists()


@pytest.mark.parametrize(
    ("keys", "package"), [([BOARD], "tensorboard"), (OFFLINE, "wandb"),
                          (["llm_config.loggers.wandb={}"], "wandb")]
)  # fmt: skip
def test_a_missing_package_is_named(monkeypatch, keys, package):
    monkeypatch.setattr("photon.errors.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'photon-pretraining\[track\]'"):
        require_trackers(*asked_of(load_config(keys)))


def test_disabled_needs_nothing(monkeypatch):
    monkeypatch.setattr("photon.errors.find_spec", lambda name: None)
    config = load_config(["use_wandb=true", "wandb.setup.mode=disabled"])
    require_trackers(*asked_of(config))
    assert effective_setup(config.wandb_setup, {}) is None, "or a run would open it"


def test_a_key_at_its_default_is_what_wandbs_variable_says():
    """As `wandb.init` itself does: what is given wins, then the variable, then the default."""
    said = {"WANDB_MODE": "dryrun", "WANDB_PROJECT": "mine", "WANDB_ENTITY": "team",
            "WANDB_RUN_GROUP": "g", "WANDB_TAGS": "a, b", "WANDB_NAME": "n", "WANDB_RUN_ID": "i",
            "WANDB_RESUME": "must"}  # fmt: skip
    plain = load_config(["use_wandb=true", "run_uuid=r"])
    found = effective_setup(plain.wandb_setup, said)
    assert found is not None
    told = init_arguments(found, "r", "server")
    assert told == {"mode": "offline", "project": "mine", "entity": "team", "group": "g",
                    "tags": ["a", "b"], "name": "n_server", "id": "i", "resume": "must",
                    "allow_val_change": True}  # fmt: skip
    given = load_config(["use_wandb=true", "wandb.setup.mode=online", "wandb.setup.project=other"])
    found = effective_setup(given.wandb_setup, said)
    assert found is not None
    assert (found.mode, found.project) == ("online", "other")
    assert effective_setup(plain.wandb_setup, {"WANDB_DISABLED": "true"}) is None
    assert effective_setup(load_config([]).wandb_setup, said) is None
    default = effective_setup(plain.wandb_setup, {})
    assert default is not None
    assert (default.mode, default.project) == ("online", "photon")


def test_a_variable_that_wandb_would_not_take_is_named(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(ConfigError, match=r"WANDB_MODE=offlin: .*'offline'"):
        require_trackers(*asked_of(load_config(["use_wandb=true"])))


class Broken:
    """A tracker that fails at a moment of its life."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.fail_at("open")

    def fail_at(self, moment: str) -> None:
        if moment == self.moment:
            raise OSError("no space left")

    def __call__(self, record) -> None:
        self.fail_at("track")

    def close(self, finished: bool) -> None:
        self.fail_at("close")


@pytest.mark.parametrize("moment", ["open", "track", "close"])
def test_a_tracker_that_fails_costs_one_warning(smoke, tmp_path, monkeypatch, moment):
    monkeypatch.setattr(external_trackers, "TensorboardTracker", lambda *_: Broken(moment))
    with pytest.warns(PhotonWarning) as caught:
        photon.train(smoke("run_uuid=b", BOARD))
    said = [str(w.message) for w in caught if "no space left" in str(w.message)]
    assert said == [
        "tensorboard: no space left; the run is unharmed, metrics.jsonl has every number"
    ]
    assert len(read_lines(tmp_path / "runs/b/metrics.jsonl")) == 2


def silent_server() -> socket.socket:
    """Takes connections, and never answers."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    return server


def test_a_wandb_that_never_answers_does_not_hold_up_a_run(tmp_path, monkeypatch):
    with silent_server() as there:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{there.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(wandb_tracker, "FINISH_SECONDS", -2)
        (tmp_path / "config.json").write_text("{}")
        init = init_arguments(WandbSetup(), "r", "server")
        begun = time.monotonic()
        tracker = WandbTracker(tmp_path, "round", init, print)
        for number in range(30_000):  # more than a pipe holds
            tracker({"round": number})
        with pytest.raises(RuntimeError, match="not everything is sent"):
            tracker.close(finished=True)
        assert tracker._process.poll() is not None
        assert time.monotonic() - begun < 15


SLOW = """
import pathlib, sys, time
sys.stdin.readline()
deadline = time.monotonic() + 2
while not pathlib.Path("go").exists() and time.monotonic() < deadline: time.sleep(0.01)
*_, last = sys.stdin
pathlib.Path("last").write_text(last)
"""


@pytest.mark.parametrize("finished", [True, False])
def test_a_process_that_is_behind_hears_how_the_run_ended(tmp_path, monkeypatch, finished):
    """Its pipe is full at the end."""
    real = select.select

    def goes_on(*given):
        (tmp_path / "go").touch()
        return real(*given)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(select, "select", goes_on)
    monkeypatch.setattr(wandb_tracker, "_COMMAND", [sys.executable, "-c", SLOW])
    tracker = WandbTracker(tmp_path, "round", {}, print)
    for number in range(30_000):  # more than a pipe holds
        tracker({"round": number})
    with pytest.raises(RuntimeError, match=r"its process ended \(0\)"):  # it never says "done"
        tracker.close(finished)
    assert (tmp_path / "last").read_text() == ("finished\n" if finished else "more\n")


def test_an_error_of_wandb_comes_back(tmp_path):
    """Its process cannot read the configuration, and says so."""
    init = init_arguments(load_config(OFFLINE).wandb.setup, "r", "server")
    tracker = WandbTracker(tmp_path, "round", init, print)
    with pytest.raises(RuntimeError, match="No such file"):
        tracker.close(finished=True)


def test_only_the_first_process_tracks():
    config = load_config([BOARD, *OFFLINE])
    nowhere: Any = None
    later = ExternalTrackers(nowhere, "r", *asked_of(config), False, print, print)
    assert later.begin("step", 0) == []


def test_numbers_by_hand():
    record = {
        "round": 3, "ok": True, "off": False, "name": "x", "none": None, "list": [1, 2],
        "bad": math.nan, "inf": math.inf, "deep": {"3": {"loss": 2.5, "why": "no"}, "4": {}},
        "a/b": 1,
    }  # fmt: skip
    assert numbers(record) == {"round": 3.0, "ok": 1.0, "off": 0.0, "deep/3/loss": 2.5, "a/b": 1.0}
    assert all(type(value) is float for value in numbers(record).values())
