"""A copy that is made while clients train names nothing that it does not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from photon.config.schema import Bucket
from photon.errors import CheckpointError, DataError, PhotonWarning
from photon.run import artifact
from photon.run.mirror import Mirror, fetch_run, require_mirror


@pytest.fixture
def bucket(tmp_path) -> Bucket:
    return Bucket(bucket_name=f"file://{tmp_path / 'store'}")


def save(folder: Path, name: str, value: float) -> Path:
    parts = {"own": ({"x": torch.full((20,), value)}, {})}
    return artifact.save(folder, name, parts, {"value": value})


def during(mirror: Mirror, monkeypatch, change) -> list[str]:
    """Let something happen when the first manifest is about to be sent; gives what is sent."""
    sent, write = [], mirror.remote.write

    def noted(name, content):
        if name.endswith(".json") and not any(one.endswith(".json") for one in sent):
            change()
        sent.append(name)
        return write(name, content)

    monkeypatch.setattr(mirror.remote, "write", noted)
    return sent


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "runs" / "r"
    save(folder / "clients" / "client_0", "round_000001", 1.0)
    return folder


def test_what_is_gone_here_goes_there(run, bucket, tmp_path):
    mirror, home = Mirror(run, bucket, "r"), run / "clients" / "client_0"
    save(home, "round_000002", 2.0)
    mirror.push()
    artifact.remove(home, "round_000001")
    mirror.push()
    assert {path.name[:12] for path in (tmp_path / "store/r/clients/client_0").iterdir()} == {
        "round_000002"
    }


def test_a_bucket_that_takes_objects_is_left_as_it_was(bucket, tmp_path):
    require_mirror(bucket)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_a_folder_with_a_space_is_named_as_a_url_has_it(tmp_path):
    require_mirror(Bucket(bucket_name=f"file://{tmp_path}/my%20store"))
    assert [path.name for path in tmp_path.iterdir()] == ["my store"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_bucket_that_takes_none_is_named(s3):
    s3("other")
    with pytest.raises(DataError, match=r"^s3_comm_config.bucket_name=none/r: .*no such bucket$"):
        require_mirror(Bucket(bucket_name="none/r"))


def test_what_is_replaced_meanwhile_comes_whole(run, bucket, tmp_path, monkeypatch):
    mirror = Mirror(run, bucket, "r")
    home = run / "clients" / "client_0"
    during(mirror, monkeypatch, lambda: save(home, "round_000001", 2.0))
    mirror.push()
    assert fetch_run(tmp_path / "again", bucket, "r")
    came = artifact.read(tmp_path / "again/clients/client_0/round_000001.json")
    assert came.load("own")[0]["x"][0] == came.facts["value"] == 2.0


def test_what_goes_meanwhile_is_not_named(run, bucket, tmp_path, monkeypatch):
    mirror, home = Mirror(run, bucket, "r"), run / "clients" / "client_0"
    save(home, "round_000002", 2.0)
    during(mirror, monkeypatch, lambda: artifact.remove(home, "round_000001"))
    mirror.push()
    index = json.loads((tmp_path / "store/r/index.json").read_text())["files"]
    assert {Path(name).name[:12] for name in index} == {"round_000002"}
    assert fetch_run(tmp_path / "again", bucket, "r")
    artifact.read(tmp_path / "again/clients/client_0/round_000002.json").load("own")


def test_open_states_of_clients_stay_here(run, bucket, tmp_path):
    """They change while they are sent."""
    save(run / "clients" / "client_0", "train", 1.0)
    Mirror(run, bucket, "r").push()
    assert not list((tmp_path / "store").rglob("train*"))


def test_what_never_holds_still_costs_a_warning(run, bucket, tmp_path, monkeypatch):
    mirror, home, value = Mirror(run, bucket, "r"), run / "clients" / "client_0", [2.0]
    write = mirror.remote.write

    def changing(name, content):
        value[0] += 1
        save(home, "round_000001", value[0])
        return write(name, content)

    monkeypatch.setattr(mirror.remote, "write", changing)
    with pytest.warns(PhotonWarning, match="files come and go faster than they are sent"):
        mirror.push()
    assert not (tmp_path / "store/r/index.json").exists()


def die_at(mirror: Mirror, monkeypatch, last: str) -> None:
    write = mirror.remote.write

    def killed(name, content):
        if name == last:
            raise SystemExit
        write(name, content)

    monkeypatch.setattr(mirror.remote, "write", killed)
    with pytest.raises(SystemExit):
        mirror.push()


@pytest.mark.parametrize("text", ["longer than it was", "-"])
def test_a_copy_that_is_cut_off_leaves_the_one_before(run, bucket, tmp_path, monkeypatch, text):
    config = run / "config.json"
    config.write_text("as it was")
    Mirror(run, bucket, "r").push()
    config.write_text(text)
    die_at(Mirror(run, bucket, "r"), monkeypatch, "index.json")
    assert fetch_run(tmp_path / "again", bucket, "r")
    assert (tmp_path / "again/config.json").read_text() == "as it was"
    Mirror(run, bucket, "r").push()
    assert fetch_run(tmp_path / "later", bucket, "r")
    assert (tmp_path / "later/config.json").read_text() == text
    assert len(list((tmp_path / "store/r").glob("config*"))) == 1


def test_what_went_between_two_processes_goes_there(run, bucket, tmp_path):
    home = run / "clients" / "client_0"
    save(home, "round_000002", 2.0)
    Mirror(run, bucket, "r").push()
    artifact.remove(home, "round_000001")
    Mirror(run, bucket, "r").push()
    assert {path.name[:12] for path in (tmp_path / "store/r/clients/client_0").iterdir()} == {
        "round_000002"
    }


def test_a_mirror_of_before_objects_had_names_is_read_and_replaced(run, bucket, tmp_path):
    store = tmp_path / "store" / "r"
    store.mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl"):
        (store / name).write_text("old")
    (store / "index.json").write_text('{"files": {"config.json": 3, "metrics.jsonl": 3}}')
    assert fetch_run(tmp_path / "again", bucket, "r")
    assert (tmp_path / "again/metrics.jsonl").read_text() == "old"
    Mirror(run, bucket, "r").push()
    assert not (store / "config.json").exists()
    assert fetch_run(tmp_path / "later", bucket, "r")
    assert not (tmp_path / "later/config.json").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("nonsense", "is no index of a run"),
        ("[1]", "it names no files"),
        ("{}", "it names no files"),
        ('{"files": {"a": "b"}}', "nothing sound of 'a'"),
        ('{"files": {"a": -1}}', "nothing sound of 'a'"),
        ('{"files": {"a": true}}', "nothing sound of 'a'"),
        ('{"files": {"a": {"size": 1, "object": null}}}', "nothing sound of 'a'"),
        ('{"files": {"../a": 1}}', "it names '../a', outside of the run"),
        ('{"files": {"/a": 1}}', "it names '/a', outside of the run"),
        ('{"files": {"a": {"size": 1, "object": "../q/config.json"}}}', "outside of the run"),
        ('{"files": {"index.json": 1}}', "outside of the run"),
    ],
)
def test_an_index_that_is_none_is_named_and_replaced(run, bucket, tmp_path, index, message):
    store = tmp_path / "store" / "r"
    store.mkdir(parents=True)
    (store / "index.json").write_text(index)
    with pytest.raises(CheckpointError, match=f"r/index.json: is no index.*{message}|{message}"):
        fetch_run(tmp_path / "again", bucket, "r")
    with pytest.warns(PhotonWarning, match="it is written anew"):
        Mirror(run, bucket, "r").push()
    assert fetch_run(tmp_path / "again", bucket, "r")


def test_a_folder_in_the_way_is_said_before_anything_is_fetched(run, bucket, tmp_path, monkeypatch):
    Mirror(run, bucket, "r").push()
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "lock").touch()
    with pytest.raises(CheckpointError, match=r"again: is there, and is no run \(no run.json\)"):
        fetch_run(tmp_path / "again", bucket, "r")
    assert not (tmp_path / ".again.coming").exists()
    (tmp_path / "again" / "lock").unlink()
    assert fetch_run(tmp_path / "again", bucket, "r")


def test_an_object_that_is_another_is_refused(run, bucket, tmp_path):
    (run / "config.json").write_text("true")
    Mirror(run, bucket, "r").push()
    (there,) = (tmp_path / "store/r").glob("config-*.json")
    there.write_text("fals")
    with pytest.raises(CheckpointError, match="is not what was sent"):
        fetch_run(tmp_path / "again", bucket, "r")


def test_a_file_called_as_the_index_is_one_of_the_run(run, bucket, tmp_path):
    (run / "index.json").write_text("mine")
    Mirror(run, bucket, "r").push()
    assert fetch_run(tmp_path / "again", bucket, "r")
    assert (tmp_path / "again/index.json").read_text() == "mine"
