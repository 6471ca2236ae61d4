"""`photon server` with options that cannot be: refused in a line, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr")

from photon.cli.main import run
from photon.errors import ConfigError
from photon.machine.address import free_port, listeners
from photon.run.kinds import FEDERATED
from photon.run.run_folder import RunFolder
from photon.wire.enrolment import signer
from photon.wire.keys import enrol, make_authority


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A folder to work in, where nothing is."""
    (home := tmp_path / "home").mkdir()
    monkeypatch.chdir(home)
    return home


def refused(capsys, *options: str) -> str:
    """What the command says as it refuses; on an address of this machine unless one is given."""
    capsys.readouterr()
    where = [] if "--listen" in options else ["--listen", f"127.0.0.1:{free_port()}"]
    assert run(["server", *where, *options, "recipe=smoke"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


OPTIONS = [("--host-clients", "0-1"), ("--host-clients", "0-1", "--insecure")]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_taken_port_is_found_before_anything_is_made(empty, capsys, options):
    port = free_port()
    (listener,) = listeners("127.0.0.1", port)
    with listener:
        line = refused(capsys, "--listen", f"127.0.0.1:{port}", *options, "fl.n_total_clients=2")
    assert f"port {port} on 127.0.0.1: is taken" in line
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("listen", "text"),
    [
        ("a..b", "address 'a..b': no host can have that name"),
        ("192.0.2.1:8000", "address 192.0.2.1:8000: is none of this machine"),
        ("localhost:0", "give HOST:PORT, with a port from 1 to 65535"),
    ],
)
def test_an_address_that_cannot_be_is_found_before_anything_is_made(empty, capsys, listen, text):
    line = refused(capsys, "--listen", listen, *OPTIONS[0])
    assert text in line
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("clients", "beyond"), [("0-7", "2-7"), ("2", "2"), ("0,1,5", "5"), ("0-999999", "2-999999")]
)
def test_clients_that_the_federation_lacks_are_not_hosted(empty, capsys, clients, beyond):
    line = refused(capsys, "--host-clients", clients, "fl.n_total_clients=2")
    assert (
        f"--host-clients {clients}: there is no client {beyond} with fl.n_total_clients=2" in line
    )
    assert list(empty.iterdir()) == []


def test_clients_without_data_here_are_not_hosted(empty, capsys, data_root):
    """The data is of two clients; other machines may have that of others."""
    given = [f"dataset.train.root_local={data_root}", "fl.n_total_clients=8"]
    line = refused(capsys, "--host-clients", "0-7", *given)
    assert f"{data_root}: was not prepared for client 2; host only those that are there" in line
    assert "(--clients 0,1)" in line
    assert list(empty.iterdir()) == []


def test_a_run_that_goes_on_is_as_it_was(empty, capsys, smoke, data_root):
    plain = smoke("fl.n_total_clients=2").model_dump(mode="json")
    tokenizer = data_root / "tokenizer.json"
    RunFolder.create(empty / "r", plain, FEDERATED, tokenizer, {"engine": "flower"}).close()
    before = {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()}
    capsys.readouterr()
    where = ["--listen", f"127.0.0.1:{free_port()}"]
    assert run(["server", *where, "--resume", str(empty / "r"), "--host-clients", "0-7"]) == 2
    assert "there is no client 2-7" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in empty.rglob("*") if path.is_file()} == before


def test_a_run_of_another_command_is_named_before_keys_are_asked_for(
    empty, capsys, smoke, data_root
):
    plain = smoke("fl.n_total_clients=2").model_dump(mode="json")
    facts = {"engine": "local"}
    RunFolder.create(empty / "r", plain, FEDERATED, data_root / "tokenizer.json", facts).close()
    assert "go on with: photon train --resume r" in refused(capsys, "--resume", "r")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ca.pem", "", "keys/ca.pem: not a certificate"),
        ("server.pem", "", "keys/server.pem: not a certificate"),
        ("server.pem", "nonsense", "keys/server.pem: not a certificate"),
        ("server.key", "", "keys/server.key: cannot read the server's key"),
        ("nodes.json", "", "keys/nodes.json: not a register of nodes"),
    ],
)
def test_a_damaged_key_is_named_before_anything_is_started(empty, capsys, name, text, message):
    make_authority(empty / "keys", ["localhost"])
    enrol(empty / "keys", "a", [0])
    (empty / "keys" / name).write_text(text)
    line = refused(capsys)
    assert message in line
    assert "put it back from a copy" in line
    assert [path.name for path in empty.iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ((), "data        the embedded corpus, since dataset.train.root_local is not set"),
        (("dataset.train.root_local=mine",), "data        mine"),
    ],
)
def test_a_node_says_what_it_trains_on(empty, capsys, monkeypatch, key, said):
    monkeypatch.setattr("photon.flower.federation.run_node", lambda *_: 0)
    assert run(["node", "--server", "here:1", "--clients", "0", "--insecure", *key]) == 0
    assert said in capsys.readouterr().out.splitlines()


def test_a_node_says_what_it_is_given_in_vain(empty, capsys, monkeypatch):
    """What the server says, and of its own keys those that it has no use for."""
    monkeypatch.setattr("photon.flower.federation.run_node", lambda *_: 0)
    keys = [
        "fl.n_rounds=3",
        "photon.join_timeout=5",
        "dataset.val.root_local=x",
        "photon.device=cpu",
    ]
    assert run(["node", "--server", "here:1", "--clients", "0", "--insecure", *keys]) == 0
    said = capsys.readouterr().err
    for key, why in zip(
        keys, ("the server says it", "it is of `photon server`", "where"), strict=False
    ):
        assert f"{key}: has no effect here: {why}" in said
    assert keys[3] not in said


def test_a_key_of_another_certificate_is_refused(empty, capsys):
    for folder in ("keys", "others"):
        make_authority(empty / folder, ["localhost"])
    (empty / "others" / "server.key").rename(empty / "keys" / "server.key")
    line = refused(capsys, *OPTIONS[0], "fl.n_total_clients=2")
    assert "keys/server.key: is not the key of server.pem" in line
    assert not (empty / "runs").exists()


def test_a_nodes_key_that_cannot_be_read_says_what_to_do(empty):
    (empty / "a.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"a\.key: cannot read .*; copy it here once more"):
        signer(empty / "a.key")
