"""`photon doctor` against a real server on loopback, with and without TLS."""

from __future__ import annotations

import json
import shutil
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from photon.cli.main import run
from photon.config import load_config
from photon.config.resolve import resolve
from photon.experiment.disk import disk_of
from photon.experiment.doctor import _size, examine
from photon.wire.keys import make_authority


class Handler(BaseHTTPRequestHandler):
    """Answers as a web server does that knows no such page, or only these."""

    known: frozenset[str] = frozenset()

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200 if self.path in self.known else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(params=["TLS", "plain"])
def server(request, tmp_path):
    """Address of a server, and the certificate of its authority."""
    make_authority(tmp_path / "keys", ["localhost"])
    served = HTTPServer(("127.0.0.1", 0), Handler)
    if request.param == "TLS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "keys" / "server.pem", tmp_path / "keys" / "server.key")
        served.socket = context.wrap_socket(served.socket, server_side=True)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield (
        ("localhost", served.server_port),
        (tmp_path / "keys" / "ca.pem" if request.param == "TLS" else None),
    )
    served.shutdown()
    thread.join()
    served.server_close()


def verdicts(*arguments) -> dict[str, tuple[str, str]]:
    return {finding.what: (finding.verdict, finding.text) for finding in examine(*arguments)}


def test_all_is_well_with_a_server_that_answers(server, smoke):
    address, authority = server
    found = verdicts(smoke(), [0, 1], address, authority)
    assert {verdict for verdict, _ in found.values()} <= {"ok", "warn"}
    assert {"device", "memory", "disk", "data", "server", "clock", "bandwidth", "access"} <= set(
        found
    )
    assert ("TLS" in found) == (authority is not None)


@pytest.mark.parametrize("path", ["/v1/control/list-runs", "/v1/runtime/acquire-task"])
def test_a_server_that_lets_anybody_run_programs_fails(monkeypatch, smoke, server, path):
    """As Flower's own SuperLink does, at the port where its nodes come."""
    monkeypatch.setattr(Handler, "known", {path})
    verdict, text = verdicts(smoke(), None, *server)["access"]
    assert verdict == "fail"
    assert f"answers {path}: whoever reaches its port may run programs" in text


def test_another_authority_is_found(tmp_path, smoke, server):
    address, authority = server
    if authority is None:
        pytest.skip("nothing to verify")
    make_authority(tmp_path / "others", ["localhost"])
    verdict, text = verdicts(smoke(), None, address, tmp_path / "others" / "ca.pem")["TLS"]
    assert verdict == "fail"
    assert "not trusted" in text


def test_the_guides_node_is_well_before_it_knows_the_model(tmp_path, capsys):
    """A site's data of 300 tokens and rows of 32, where the default model has other numbers; one
    that is named is compared."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(200):
        words = (f"word{(number * 7 + k) % 50}" for k in range(60))
        (texts / f"{number}.txt").write_text(" ".join(words))
    made = ["--source", str(texts), "--train-tokenizer", "vocab_size=300", "--clients", "1-1"]
    mine, want = tmp_path / "mine", "llm_config.max_seq_len=32"
    assert run(["prepare", *made, "--out", str(mine), want]) == 0
    config = load_config([f"dataset.train.root_local={mine}"])
    nowhere = ("127.0.0.1", 1)
    found = verdicts(config, [1], nowhere, None)
    assert [found[what][0] for what in ("memory", "disk", "data")] == ["ok"] * 3
    assert "up to the server's model" in found["memory"][1]
    assert "rows of 32" in found["data"][1]
    assert verdicts(config, [0], nowhere, None)["data"][0] == "fail"
    (mine / "tokenizer.json").write_text("{}")
    assert verdicts(config, [1], nowhere, None)["data"][0] == "fail"
    named = load_config([f"dataset.train.root_local={mine}", "llm_config=mpt-7b"])
    assert "mpt-7b" in verdicts(named, [1], nowhere, None)["memory"][1]
    capsys.readouterr()


def test_what_is_missing_is_found(smoke, tmp_path):
    found = verdicts(smoke(), [0, 7], ("127.0.0.1", 1), None)
    assert found["data"][0] == "fail"
    assert "client 7 is needed" in found["data"][1]
    assert found["server"][0] == "fail"
    large = load_config(["llm_config=mpt-7b", f"photon.saving_path={tmp_path / 'not' / 'yet'}"])
    found = verdicts(large, None, None, None)
    assert "to train mpt-7b" in found["memory"][1]
    assert str(tmp_path) in found["disk"][1]


def test_a_server_keeps_the_updates_of_one_cohort(smoke):
    """However many clients there are, of which each keeps its own states."""
    config = smoke("fl.n_total_clients=100", "fl.n_clients_per_round=2")
    run = resolve(config.but(name="r"), cores=1, accelerator=0, run_uuid="r")
    sizes = disk_of(run.inner, run.federation, run.checkpoints_kept, 2)
    need = f"{_size(sizes['server'] + 100 * sizes['client'])} for the states of 100 clients"
    assert verdicts(config, None, None, None)["disk"][1].startswith(need)


def test_a_folder_that_cannot_be_written_is_found(smoke, tmp_path):
    (tmp_path / "file").touch()
    config = smoke(f"photon.saving_path={tmp_path / 'file' / 'runs'}")
    verdict, text = verdicts(config, None, None, None)["disk"]
    assert (verdict, "cannot be written" in text) == ("fail", True)


def test_a_mirror_is_tried(smoke, s3):
    bucket = s3("doctor").removeprefix("s3://")
    for name, verdict in ((f"{bucket}/runs", "ok"), ("nothing", "fail")):
        found = verdicts(smoke(f"s3_comm_config.bucket_name={name}"), None, None, None)
        assert found["mirror"][0] == verdict, found["mirror"]
        assert name in found["mirror"][1]


def test_the_command_says_so(capsys, data_root):
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}"]
    assert run(["doctor", "--clients", "0-1", *keys]) == 0
    assert "ok    data" in capsys.readouterr().out
    assert run(["doctor", "--clients", "0-9", *keys]) == 2
    capsys.readouterr()
    assert run(["doctor", "--json", "--clients", "0-9", *keys]) == 2
    found = {one["what"]: one["verdict"] for one in json.loads(capsys.readouterr().out)}
    assert (found["data"], found["device"]) == ("fail", "ok")


def test_data_that_is_named_is_looked_at_as_training_would(capsys, data_root, tmp_path):
    """The data has two clients, rows of 32 and 300 tokens; the default model 8, 128 and 2,048."""
    assert run(["doctor", f"dataset.train.root_local={data_root}"]) == 0
    assert "clients 0, 1; rows of 32" in capsys.readouterr().out
    assert run(["doctor", f"dataset.train.root_local={tmp_path / 'none'}"]) == 2
    assert "fail  data       " in (out := capsys.readouterr().out)
    assert f"{tmp_path / 'none'}: no prepared data here" in out
    assert run(["doctor", f"dataset.train.root_local={data_root}", "fl.n_total_clients=3"]) == 2
    assert "fail  data" in capsys.readouterr().out
    mixed = tmp_path / "mixed"
    shutil.copytree(data_root, mixed)
    shutil.rmtree(mixed / "client_1")
    shutil.copytree(mixed / "client_0", mixed / "client_1")
    assert run(["doctor", f"dataset.train.root_local={mixed}"]) == 2
    assert "client_1/train: is of another data set" in capsys.readouterr().out
