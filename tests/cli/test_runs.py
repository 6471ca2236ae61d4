"""`photon runs` and `photon stop`, on runs that are there and on one that runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import click
import pytest

import photon
from photon.cli.main import cli, run
from photon.cli.options import RunPath
from photon.config import Config
from photon.data.manifest import write_json
from photon.errors import CorruptCheckpoint
from photon.run import artifact
from photon.run.checkpoint import list_checkpoints, load_with_way_back, verified
from photon.run.going_on import how_to_go_on
from photon.run.kinds import IMPORTED, NODE
from photon.run.listing import find_runs, run_named, run_status
from photon.run.restore import rewind
from photon.run.run_folder import RunFolder


def test_runs_are_listed_with_what_they_did(smoke, tmp_path, capsys):
    result = photon.train(smoke("run_uuid=one"))
    photon.train(smoke("run_uuid=two", "llm_config.max_duration=4"), centralized=True)
    (tmp_path / "runs" / "stray").mkdir()
    assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run"], first["kind"], first["state"]) == ("one", "federated", "ended")
    assert (first["done"], first["total"]) == (2, 2)
    assert first["tokens"] == result.federated.tokens
    assert abs(first["val_loss"] - result.federated.val_loss) < 1e-9
    assert (second["kind"], second["done"], second["total"]) == ("centralized", 4, 4)
    assert run(["runs", str(tmp_path / "runs")]) == 0
    assert "federated" in capsys.readouterr().out


def _imported(folder: Path, config: Config, data_root: Path) -> None:
    plain, tokenizer = config.model_dump(mode="json"), data_root / "tokenizer.json"
    RunFolder.create(folder, plain, IMPORTED, tokenizer, {}).close()


def test_a_run_that_cannot_be_read_is_named(smoke, data_root, tmp_path, capsys):
    runs = tmp_path / "runs"
    for name in ("sound", "torn"):
        _imported(runs / name, smoke(), data_root)
    (runs / "torn" / "run.json").write_text("{")
    assert run(["runs", str(runs), "--json"]) == 0
    told = capsys.readouterr()
    assert [one["run"] for one in json.loads(told.out)] == ["sound"]
    assert told.err.startswith(f"photon: warning: left out: {runs / 'torn'}: unreadable run.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": 1}', "config.json: x: is no key of the configuration; put it back"),
        ("", ": unreadable config.json (Expecting value: line 1 column 1 (char 0)); put it back"),
        ("[]", ": unreadable config.json (it has no keys); put it back"),
    ],
)
def test_a_damaged_configuration_is_named_and_what_to_do(
    smoke, data_root, tmp_path, capsys, text, message
):
    folder = tmp_path / "runs" / "torn"
    _imported(folder, smoke(), data_root)
    (folder / "config.json").write_text(text)
    for words in (["train", "--resume", str(folder)], ["runs", str(folder.parent)]):
        assert run(words) in (0, 2)
        told = capsys.readouterr().err
        assert str(folder) in told
        assert message in told
    (folder / "run.json").write_text("")
    assert run(["status", str(folder)]) == 2
    assert "put it back" in capsys.readouterr().err


def test_a_run_is_not_imported(smoke, data_root, tmp_path, capsys):
    folder = tmp_path / "runs" / "here"
    _imported(folder, smoke(), data_root)
    assert run(["import", str(folder), str(tmp_path / "out")]) == 2
    assert f"{folder}: is a run of Photon, not a folder of trans" in capsys.readouterr().err


def test_an_imported_model_waits_for_nothing(smoke, data_root, tmp_path):
    folder = tmp_path / "runs" / "imported"
    _imported(folder, smoke(), data_root)
    assert run_status(folder).state == "ended"


def test_a_node_is_no_run_at_its_first_step(smoke, data_root, tmp_path, capsys):
    """It holds its folder from run to run, so that who followed it saw nothing, for ever."""
    folder = tmp_path / "runs" / "site"
    tokenizer, plain = data_root / "tokenizer.json", smoke().model_dump(mode="json")
    with closing(RunFolder.create(folder, plain, NODE, tokenizer, {})):
        (status,) = find_runs(folder.parent)
        assert (status.state, status.done, status.total) == ("running", 0, 0)
        assert run(["status", str(folder)]) == 0
        assert "site: running, hosts clients for a server elsewhere" in capsys.readouterr().out
        for command in ("watch", "report", "verify"):
            assert run([command, str(folder)]) == 2
            told = capsys.readouterr().err
            assert f"{folder}: hosts clients for a server elsewhere, which has the" in told


def test_an_empty_folder_says_what_makes_a_run(tmp_path, capsys, monkeypatch):
    assert run(["runs", str(tmp_path)]) == 0
    assert "photon train" in capsys.readouterr().out
    assert run(["runs", str(tmp_path / "nosuch")]) == 2
    monkeypatch.chdir(tmp_path)
    assert run(["runs"]) == 0
    assert "no runs in runs; `photon train` makes one" in capsys.readouterr().out


def test_a_run_is_stopped_from_another_process_and_goes_on(smoke, data_root, tmp_path, capsys):
    folder = tmp_path / "runs" / "long"
    command = [sys.executable, "-m", "photon", "train", "recipe=smoke", "run_uuid=long",
               "fl.n_rounds=100000", f"dataset.train.root_local={data_root}",
               f"photon.saving_path={tmp_path / 'runs'}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["state"] == "running"
        assert run(["stop", str(folder)]) == 0
        assert f"photon train --resume {folder}" in capsys.readouterr().out
        assert process.wait(30) == 143
    finally:
        process.kill()
    assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)[0]
    assert status["state"] == "stopped"
    assert status["done"] >= 1
    assert run(["stop", str(folder)]) == 2
    assert "is not running" in capsys.readouterr().err


def test_no_run_to_stop(tmp_path, capsys):
    assert run(["stop", str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "has_flower", "command"),
    [
        ({"kind": "federated", "engine": "local"}, False, "photon train --resume {}"),
        ({"kind": "federated"}, False, "photon train --resume {}"),
        ({"kind": "federated"}, True, "photon server --resume {}"),
        ({"kind": "centralized"}, False, "photon train --resume {}"),
        ({"kind": "node"}, False, "the `photon node` command that it was started by"),
        (
            {"kind": "federated", "engine": "flower", "engine_options": ["--keys", "a b"]},
            True,
            "photon server --resume {} --keys 'a b'",
        ),
    ],
)
def test_how_a_run_goes_on(facts, has_flower, command, tmp_path):
    """Folders of before the engine was written down, too."""
    if has_flower:
        (tmp_path / "flower").mkdir()
    assert how_to_go_on(tmp_path, facts) == command.format(tmp_path)


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"engine": "local"}, "photon train --resume {} photon.resume_round=1"),
        (
            {"engine": "flower", "engine_options": ["--keys", "a b"]},
            "photon server --resume {} --keys 'a b' photon.resume_round=1",
        ),
        (
            {"engine": "sockets"},
            "photon.resume('{}', ['photon.resume_round=1'], engine=...), with the engine that it "
            "was begun with",
        ),
    ],
    ids=["local", "flower", "sockets"],
)
def test_the_way_back_from_a_damaged_checkpoint_is_the_runs_own(facts, command, tmp_path):
    write_json(tmp_path / "run.json", {"kind": "federated", **facts})
    for number in (1, 2):
        state = {"state": {"round": number}}
        artifact.save(tmp_path / "checkpoints", f"round_{number:06d}", {}, state)
    newest = tmp_path / "checkpoints" / "round_000002.json"
    newest.write_text(newest.read_text().replace('"round": 2', '"round": 3'))
    with pytest.raises(CorruptCheckpoint) as refused:
        load_with_way_back(newest, artifact.read)
    assert str(refused.value).endswith(f"go back to it with: {command.format(tmp_path)}")


def test_rounds_are_in_order_beyond_a_million(tmp_path):
    """Their numbers then have more digits than the names of earlier ones."""
    write_json(tmp_path / "run.json", {"kind": "federated"})
    folder = tmp_path / "checkpoints"
    for number in (999_999, 1_000_000):
        artifact.save(folder, f"round_{number:06d}", {}, {"state": {"round": number}})
    newest = folder / "round_1000000.json"
    whole = newest.read_text()
    newest.write_text(whole.replace('"round": 1000000', '"round": 5'))
    with pytest.raises(CorruptCheckpoint, match=r"photon\.resume_round=999999"):
        load_with_way_back(newest, artifact.read)
    newest.write_text(whole)
    rewind(tmp_path, 999_999)
    assert [path.stem for path in list_checkpoints(folder)] == ["round_999999"]


def test_a_step_back_that_is_cut_off_leaves_no_gap(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    for number in (1, 2, 3):
        artifact.save(folder, f"round_{number:06d}", {}, {"state": {"round": number}})
    remove = artifact.remove

    def killed(folder, name):
        remove(folder, name)
        raise SystemExit

    monkeypatch.setattr(artifact, "remove", killed)
    with pytest.raises(SystemExit):
        rewind(tmp_path, 1)
    assert [path.stem for path in list_checkpoints(folder)] == ["round_000001", "round_000002"]


def test_a_run_has_its_name_also_from_within(smoke, data_root, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "here"
    _imported(folder, smoke(), data_root)
    monkeypatch.chdir(folder)
    assert run_status(Path()).run == "here"
    monkeypatch.chdir(folder.parent)
    (tmp_path / "runs" / "there").symlink_to(folder)
    assert run_status(Path("there")).run == "there"


def test_a_server_refuses_a_run_of_this_machine(smoke, capsys):
    """Its clients' states are here, not on nodes; nothing is started or made."""
    config = smoke("run_uuid=r", "fl.n_rounds=1")
    folder = Path(photon.train(config).folder)
    before = sorted(path.name for path in folder.iterdir())
    assert run(["server", "--insecure", "--resume", str(folder)]) == 2
    assert f"go on with: photon train --resume {folder}" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.fixture
def named(smoke, tmp_path, monkeypatch):
    """The working folder of a run `runs/named`."""
    photon.train(smoke("run_uuid=named"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_that_is_listed_is_taken_by_every_command(named, capsys):
    assert run(["status", "named"]) == 0
    assert "named: ended" in capsys.readouterr().out
    assert run(["watch", "named"]) == 0
    assert "runs/named: ended" in capsys.readouterr().out
    assert run(["stop", "named"]) == 2
    assert "runs/named: is not running" in capsys.readouterr().err
    assert run(["server", "--insecure", "--resume", "named"]) == 2
    assert "go on with: photon train --resume runs/named" in capsys.readouterr().err
    assert run(["generate", "named", "x", "--max-new-tokens", "1"]) == 0
    assert run(["export", "named/checkpoints/round_000002.json", "hf"]) == 0
    assert run(["evaluate", "named", "icl_tasks_config=empty"]) == 0
    assert run(["report", "named"]) == 0
    assert (named / "runs/named/report.html").exists()
    assert run(["train", "--resume", "named", "fl.n_rounds=3", "--quiet"]) == 0
    assert photon.resume("named", "fl.n_rounds=4").rounds == 4


def test_a_copy_of_a_checkpoint_is_exported_with_what_the_run_recorded(named):
    folder = named / "runs/named/checkpoints"
    (folder / "best.json").write_bytes((folder / "round_000002.json").read_bytes())
    for name in ("best", "round_000002"):
        assert run(["export", f"named/checkpoints/{name}.json", name]) == 0
    best, second = ((named / name / "README.md").read_text() for name in ("best", "round_000002"))
    assert best == second.replace("round_000002", "best")
    assert "## Validation" in best


def test_a_path_that_is_there_is_what_it_says(named):
    (named / "named").mkdir()
    assert run_named(Path("named")) == Path("named")
    assert run_named(Path("none")) == Path("none")


def test_names_of_runs_are_completed(named):
    parameter = RunPath()
    found = parameter.shell_complete(click.Context(cli), cli.params[0], "na")
    assert [item.value for item in found] == ["named"]
    (path,) = parameter.shell_complete(click.Context(cli), cli.params[0], "zz")
    assert path.type == "file"


def test_a_numbered_manifest_without_a_state_is_no_checkpoint(tmp_path):
    path = artifact.save(tmp_path, "round_000001", {}, {"n": 1})
    with pytest.raises(CorruptCheckpoint, match="holds no state of a round"):
        verified(path)


@pytest.mark.parametrize("command", ["status", "watch", "report", "stop", "evaluate", "verify"])
def test_a_name_that_no_file_can_have_is_no_run(capsys, command):
    """It said that a file was: xxx/metrics.jsonl: File name too long."""
    assert run([command, "x" * 300]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"photon: {'x' * 40}...: no run here, nor can one have so long a name;")
