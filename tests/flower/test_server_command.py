"""`photon server` with options that cannot be: refused in a line, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr")

from photon.cli.main import run
from photon.machine.address import free_port, listeners
from photon.run.kinds import FEDERATED
from photon.run.run_folder import RunFolder


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
        ("a..b", "address a..b: is not known here (no host can have that name)"),
        ("192.0.2.1:8000", "address 192.0.2.1:8000: is none of this machine"),
        ("localhost:0", "give HOST:PORT"),
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
    assert f"{data_root}: was not prepared for client 2" in line
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
