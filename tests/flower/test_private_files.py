"""Keys and prepared data in a project folder: git does not see them, whoever made them."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from photon.cli.main import run
from photon.config import load_config
from photon.data.prepare.embedded import prepare_embedded
from photon.errors import ConfigError
from photon.flower.connection import find_node_keys
from photon.flower.own_node import own_node
from photon.wire import keys
from photon.wire.enrolment import REGISTER, read_register
from photon.wire.keys import enrol, make_authority

pytest.importorskip("flwr")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def seen(project: Path) -> list[str]:
    """What git would add."""
    shown = subprocess.run(
        ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=all"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return sorted(line[3:] for line in shown.splitlines())


def test_keys_are_not_seen(project):
    assert run(["keys", "init"]) == 0
    assert run(["keys", "add", "a", "--clients", "0"]) == 0
    assert (project / "keys" / "a.key").exists()
    assert seen(project) == []


def test_the_keys_of_an_own_node_are_not_seen(project, monkeypatch):
    """Made by `--host-clients`, as the published scripts use it."""
    monkeypatch.setattr("photon.flower.own_node.Guarded.__init__", lambda *_: None)
    monkeypatch.setattr("photon.flower.own_node.Guarded.close", lambda _: None)
    with own_node("0-1", ("127.0.0.1", 1), project / "keys", project, {}):
        assert (project / "keys" / "ca.key").exists()
    assert seen(project) == []


def test_an_own_node_hosts_what_this_run_says(project, monkeypatch):
    """Its key is there from a run with other clients, and nobody would train the rest."""
    monkeypatch.setattr("photon.flower.own_node.Guarded.__init__", lambda *_: None)
    monkeypatch.setattr("photon.flower.own_node.Guarded.close", lambda _: None)
    keys = project / "keys"
    for clients, allowed in (("0", {0}), ("0-7", set(range(8)))):
        with own_node(clients, ("127.0.0.1", 1), keys, project, {}):
            assert read_register(keys / REGISTER).allowed("local", range(9)) == allowed


def test_private_keys_beside_other_files_are_not_seen_and_the_others_are(project):
    (project / "notes.txt").touch()
    (project / ".gitignore").write_text("*.tmp")
    assert run(["keys", "init", "--folder", "."]) == 0
    assert run(["keys", "add", "a", "--clients", "0", "--folder", "."]) == 0
    assert seen(project) == [".gitignore", "ca.pem", "nodes.json", "notes.txt", "server.pem"]
    assert (project / ".gitignore").read_text().splitlines() == ["*.tmp", "*.key"]


def test_a_key_that_was_copied_to_a_node_is_not_seen(project):
    folder = project / "keys"
    make_authority(project / "server", ["localhost"])
    folder.mkdir()
    (folder / "ca.pem").write_bytes((project / "server" / "ca.pem").read_bytes())
    (folder / "a.key").touch()
    assert find_node_keys(folder, "a").key == folder / "a.key"
    with pytest.raises(ConfigError, match=r"b\.key: no such file; .*is this node --name a\?"):
        find_node_keys(folder, "b")
    assert "keys/a.key" not in seen(project)


def test_prepared_data_is_not_seen(project):
    config = load_config(["recipe=smoke"])
    prepare_embedded(project / "fed-c4" / "c8", config.data.embedded, 2, 16)
    assert (project / "fed-c4" / "c8" / "manifest.json").exists()
    assert seen(project) == []


@pytest.mark.parametrize("name", ["../a", "a/b", "", "ca", "server", ".a", "a" * 65])
def test_a_node_has_a_name_for_a_file_of_its_own(project, capsys, name):
    assert run(["keys", "init"]) == 0
    before = sorted(project.rglob("*"))
    assert run(["keys", "add", name, "--clients", "0"]) == 2
    assert "is no name for a node" in capsys.readouterr().err
    assert sorted(project.rglob("*")) == before


def test_a_node_is_told_of_the_keys_of_nodes_alone(project):
    assert run(["keys", "init"]) == 0
    assert run(["keys", "add", "a", "--clients", "0"]) == 0
    with pytest.raises(ConfigError, match=r"or is this node --name a\?"):
        find_node_keys(project / "keys", "nope")


@pytest.mark.parametrize("command", [["add", "b", "--clients", "1"], ["remove", "a"]])
@pytest.mark.parametrize("text", ['{"a":', "[]", '{"a": {}}'])
def test_a_register_that_is_damaged_is_named(project, capsys, command, text):
    assert run(["keys", "init"]) == 0
    Path("keys/nodes.json").write_text(text)
    assert run(["keys", *command]) == 2
    assert "keys/nodes.json: not a register of nodes" in capsys.readouterr().err
    assert Path("keys/nodes.json").read_text() == text
    assert not Path("keys/b.key").exists()


def test_two_nodes_that_are_enrolled_at_once_are_both_there(tmp_path, monkeypatch):
    """The second comes while the first has read the register and not written it."""
    make_authority(tmp_path, ["localhost"])
    other = threading.Thread(target=enrol, args=(tmp_path, "b", [1]))
    make = keys._new_key

    def meanwhile():
        monkeypatch.setattr(keys, "_new_key", make)
        other.start()
        other.join(0.3)
        return make()

    monkeypatch.setattr(keys, "_new_key", meanwhile)
    enrol(tmp_path, "a", [0])
    other.join(60)
    bound = read_register(tmp_path / REGISTER).nodes or {}
    assert {name: one.clients for name, one in bound.items()} == {"a": [0], "b": [1]}


def test_the_key_of_a_removed_node_is_in_the_way_of_a_new_one(project, capsys):
    enrol = ["keys", "add", "a", "--clients", "0"]
    assert run(["keys", "init"]) == run(enrol) == run(["keys", "remove", "a"]) == 0
    assert run(enrol) == 2
    assert "a.key: is there already, and of no enrolled node; delete" in capsys.readouterr().err
    Path("keys/a.key").unlink()
    assert run(enrol) == 0


@pytest.mark.parametrize("host", ["", "a b", "https://a.org", "a.org:9092", "b\u00fccher.de"])
def test_a_host_that_no_node_could_dial_is_refused(project, capsys, host):
    assert run(["keys", "init", "--host", "127.0.0.1", "--host", host]) == 2
    assert f"--host {host!r}: give a name or an address" in capsys.readouterr().err
    assert not Path("keys").exists()


def test_hosts_that_nodes_dial_are_taken(project):
    names = ["a.example.org", "*.example.org", "gpu_1", "192.0.2.1", "2001:db8::1", "[::1]"]
    assert run(["keys", "init", *(part for name in names for part in ("--host", name))]) == 0


@pytest.mark.parametrize("text", ["", "nonsense"])
def test_an_authority_that_is_none_is_refused_at_once(project, text):
    assert run(["keys", "init"]) == 0
    assert run(["keys", "add", "a", "--clients", "0", "--keys", "keys"]) == 0
    (project / "keys" / "ca.pem").write_text(text)
    with pytest.raises(ConfigError, match=r"keys/ca\.pem: not a certificate .*; copy it here"):
        find_node_keys(project / "keys", "a")
