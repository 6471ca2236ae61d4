"""Sites that prepare their own data: numbers of clients, and who needs whose data."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

import photon
from loopback import SocketLink, final_digest, nodes, train
from photon.cli.main import run
from photon.config import load_config
from photon.config.prepare import PrepareConfig
from photon.data.manifest import clients_of, read_manifest
from photon.data.prepare.summary import summarise
from photon.data.prepare.text import prepare_text
from photon.data.read.verify import verify
from photon.errors import DataError
from photon.node.service import NodeService
from photon.run.preparation import prepare, require_data
from photon.server.roster import Roster
from photon.wire.enrolment import Register

SHAPE = ["recipe=smoke", "fl.n_total_clients=4", "fl.n_rounds=2"]


def part_of(four: Path, root: Path, clients: range) -> Path:
    """What a site that hosts these clients has; the server has the validation set only."""
    shutil.copytree(four, root, ignore=shutil.ignore_patterns("client_*"))
    for client in clients:
        shutil.copytree(four / f"client_{client}", root / f"client_{client}")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["settings"] |= {"num_clients": len(clients) or 1, "first_client": clients.start}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def test_no_machine_has_all_of_the_data(four, tmp_path):
    """The bits of a run on one machine, though each site has its own clients' rows only."""
    local = photon.train([*SHAPE, f"dataset.train.root_local={four}", "run_uuid=local",
                          f"photon.saving_path={tmp_path / 'local'}"])  # fmt: skip
    places = {"a": range(2), "b": range(2, 4)}
    roots = {name: part_of(four, tmp_path / name, own) for name, own in places.items()}
    public = part_of(four, tmp_path / "public", range(0))
    config = load_config([*SHAPE, f"dataset.train.root_local={public}", "photon.n_nodes=2",
                          f"photon.saving_path={tmp_path / 'server'}", "run_uuid=r"])  # fmt: skip
    clients = {name: list(own) for name, own in places.items()}
    with nodes(tmp_path / "saved", roots, clients) as sockets:
        result = train(config, sockets)
    assert final_digest(result) == final_digest(local)
    assert result.unigram is None, "the server does not know the clients' token frequencies"
    assert local.unigram is not None


def test_who_needs_whose_data(four, tmp_path):
    site = part_of(four, tmp_path / "site", range(2, 4))
    config = load_config([*SHAPE, f"dataset.train.root_local={site}"])
    prepare(config, print, ())
    prepare(config, print, [2, 3])
    with pytest.raises(DataError, match=r"2 clients \(2 to 3\), but client 1 is needed"):
        prepare(config, print, [1, 2])
    with pytest.raises(DataError, match="client 0 is needed"):
        prepare(config, print)


def test_unigram_metrics_that_are_asked_for_need_the_data(four, tmp_path):
    public = part_of(four, tmp_path / "public", range(0))
    keys = [f"dataset.train.root_local={public}", f"photon.saving_path={tmp_path / 'server'}",
            "run_uuid=r", "fl.use_unigram_metrics=true"]  # fmt: skip
    with (
        nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as sockets,
        pytest.raises(DataError, match="client_0"),
    ):
        train(load_config([*SHAPE, *keys]), sockets)


def write_lines(path: Path, documents: int) -> None:
    lines = [{"text": f"document {i} " + "word " * (i % 17 + 5), "source": f"s{i % 5}"}
             for i in range(documents)]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("partition", ["iid", "source", "dirichlet", "size"])
@pytest.mark.parametrize("block", [50, 10_000], ids=["streamed", "listed"])
def test_numbers_are_all_that_differs(tmp_path, partition, block):
    source = tmp_path / "text.jsonl"
    write_lines(source, 200)
    keys = {"source": str(source), "vocab_size": 300, "partition": partition, "alpha": 10.0,
            "shuffle_documents": block}  # fmt: skip
    made = {}
    for first in (0, 5):
        made[first] = tmp_path / f"from_{first}"
        prepare_text(made[first], PrepareConfig(**keys, first_client=first), 2, 16)
    assert clients_of(read_manifest(made[5])) == range(5, 7)
    assert {path.name for path in made[5].glob("client_*")} == {"client_5", "client_6"}
    for client in (0, 1):
        for part in ("train", "validation"):
            rows = [next((made[first] / f"client_{first + client}" / part).glob("*.bin"))
                    for first in (0, 5)]  # fmt: skip
            assert rows[0].read_bytes() == rows[1].read_bytes()
    summaries = [summarise(made[first]) for first in (0, 5)]
    assert [one.client for one in summaries[1]] == [5, 6]
    assert [one.train_tokens for one in summaries[0]] == [one.train_tokens for one in summaries[1]]
    verify(made[5])


def test_the_command(tmp_path, capsys):
    source = tmp_path / "text.jsonl"
    write_lines(source, 300)
    made = ["prepare", "--source", str(source), "--train-tokenizer", "300", "recipe=smoke"]
    assert run([*made, "--out", str(tmp_path / "out"), "--clients", "4-5"]) == 0
    assert "for clients 4-5" in capsys.readouterr().out
    assert (tmp_path / "out" / "client_4").is_dir()
    assert run([*made, "--out", str(tmp_path / "two"), "--clients", "1,3"]) == 2
    assert "must be one range" in capsys.readouterr().err
    assert run(["prepare", "--clients", "4-5"]) == 2
    assert "give --source" in capsys.readouterr().err


def test_a_node_without_data_is_refused_before_it_joins(four, tmp_path):
    own = load_config([f"dataset.train.root_local={tmp_path / 'nothing'}"])
    with pytest.raises(DataError, match="no prepared data here"):
        require_data(own.data.train, [0])
    site = part_of(four, tmp_path / "site", range(2, 4))
    own = load_config([f"dataset.train.root_local={site}"])
    require_data(own.data.train, [2, 3])
    with pytest.raises(DataError, match="was not prepared for client 1"):
        require_data(own.data.train, [1, 2])
    require_data(load_config([]).data.train, [7])
    shutil.copytree(four, tmp_path / "tree" / "c4" / "en")
    own = load_config([f"dataset.train.root_local={tmp_path / 'tree'}"])
    require_data(own.data.train, [3])  # the server says which of a tree's data sets it is
    streams = "dataset.train.streams=[{client_streams: {s: {local: c4/en/client_3}}}]"
    own = load_config([f"dataset.train.root_local={tmp_path / 'tree'}", streams])
    require_data(own.data.train, [0])
    with pytest.raises(DataError, match="streams says nothing of client 3"):
        require_data(own.data.train, [3])


def test_a_node_that_is_turned_away_is_told_and_ends(four, tmp_path, monkeypatch):
    """The server's reason reaches it, and it does not wait for ever."""
    monkeypatch.setattr("photon.server.roster.PROTOCOL", 99)
    own = load_config([f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path}"])
    with tempfile.TemporaryDirectory(prefix="photon-") as home:
        path = Path(home) / "b.sock"
        service = NodeService("b", [0], own, path, None, lambda line: None)
        thread = threading.Thread(target=service.serve, args=(lambda: False,))
        thread.start()
        said: list[str] = []
        link = SocketLink(Path(home))
        roster = Roster(link, Register(None), said.append)
        deadline = time.monotonic() + 20
        while thread.is_alive() and time.monotonic() < deadline:
            roster.refresh()
            for name, answer in link.answers(0.1):
                roster.take(name, answer)
        thread.join(1)
    assert service.turned_away is not None
    assert "here is photon" in service.turned_away
    assert said == [f"turned away: {service.turned_away}"]
