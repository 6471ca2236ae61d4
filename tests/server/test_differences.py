"""Parameters come down as differences to what clients hold: the same bits, fewer bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

import loopback
import photon
from loopback import final_digest, nodes, train
from photon.config import load_config
from photon.experiment import experiment
from photon.machine import frames
from photon.model.build import build_model, parameters_of
from photon.node import hosted_run
from photon.node.hosted_run import HostedRun
from photon.node.mailbox import Mailbox
from photon.run.trackers import read_lines
from photon.wire import inline
from photon.wire.buffers import Buffers
from photon.wire.messages import unpack_request

DOWN = "fl.compression.download=bf16"
SHAPE = ["fl.n_total_clients=4", "fl.n_rounds=3", "photon.n_nodes=2", "fl.eval_period=null"]
PLACES = {"a": [0, 2], "b": [1, 3]}


@pytest.fixture
def make(four, tmp_path):
    def configuration(*overrides: str):
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / 'server'}"]
        return load_config(["recipe=smoke", *paths, *SHAPE, DOWN, *overrides])

    return configuration


def records(result) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def sent_down(result, kind: str) -> list[int]:
    return [record["bytes_by_kind"]["down"].get(kind, 0) for record in records(result)]


PERIODS = ["fl.first_moment_period=2", "fl.second_moment_period=3"]


@pytest.mark.parametrize("keys", [[], PERIODS, ["fl.aggregate_momenta=false"]], ids=str)
def test_nodes_that_get_differences_train_from_the_same_bits(make, four, tmp_path, keys):
    config = make(*keys)
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(config, sockets)
    local = photon.train(config.but(name="local"))
    assert final_digest(result) == final_digest(local)
    whole = 4 * result.parameters
    # Two nodes: each makes the first base of the seed, then gets differences in bf16.
    assert sent_down(result, "parameters") == [0, whole, whole]
    assert sent_down(local, "parameters") == [0, 2 * whole, 2 * whole]
    moments = [[2 * each for each in sent_down(result, "moments")], sent_down(local, "moments")]
    assert moments[0] == moments[1]


RUNGS = [("topk", "uniform:75/11", "int2"), ("uniform", "e3m0", "int4"), ("int1", "topk", "e3m0"),
         ("int2", "int8", "uniform"), ("fp16", "fp16", "fp16")]  # fmt: skip


@pytest.mark.parametrize(("up", "down", "moments"), RUNGS)
def test_every_rung_gives_the_same_bits_over_nodes(make, four, tmp_path, up, down, moments):
    config = make(f"fl.compression.upload={up}", f"fl.compression.download={down}",
                  f"fl.compression.moments={moments}")  # fmt: skip
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(config, sockets)
    local = photon.train(config.but(name="local"))
    assert final_digest(result) == final_digest(local)
    assert 0 < sent_down(result, "parameters")[1] <= 4 * result.parameters, "not whole"


def counting(monkeypatch) -> list[tuple[str, int, int]]:
    """Kind, bytes and bytes of the answer, as they go through the sockets."""
    found: list[tuple[str, int, int]] = []

    class Counting(loopback.SocketLink):
        def _exchange(self, name: str, address: str, message: Buffers) -> None:
            with loopback.connect(Path(address)) as connection:
                frames.send_bytes(connection, *message.parts)
                length = frames.receive_length(connection, loopback.MAX_MESSAGE_BYTES)
                assert length is not None
                self._inbox.receive(name, lambda: frames.read(connection, length))
            found.append((unpack_request(message).kind, message.size, length))

    monkeypatch.setattr(loopback, "SocketLink", Counting)
    return found


@pytest.mark.parametrize("small", [False, True])
def test_what_is_reported_is_what_goes_through_the_sockets(
    make, four, tmp_path, monkeypatch, small
):
    if small:  # payloads no longer fit into tickets: they go ahead in pieces, and are asked for
        monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 10_000)
    found = counting(monkeypatch)
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make(), sockets)
    counted = [one for one in found if one[0] not in ("hello", "cancel")]
    assert sum(sent for _, sent, _ in counted) == result.bytes_down
    assert sum(answered for _, _, answered in counted) == result.bytes_up
    assert {kind for kind, _, _ in counted} == ({"train", "put", "get"} if small else {"train"})
    for record in records(result):
        kinds, clients = record["bytes_by_kind"], record["client_bytes"].values()
        assert sum(kinds["up"].values()) == record["bytes_up"] == sum(up for up, _ in clients)
        assert sum(kinds["down"].values()) == record["bytes_down"] == sum(d for _, d in clients)
        assert kinds["up"]["gradient"] > 4 * result.parameters / 2, "4 bits and scales, of each"
        assert 0 < kinds["up"]["rest"] < 40_000


def test_a_node_that_was_away_gets_the_differences_that_it_missed(make, four, tmp_path):
    """Two of four clients a round: a node is now and then not asked, and once for long."""
    config = make("fl.n_clients_per_round=1", "fl.n_rounds=8", "fl.aggregate_momenta=false")
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(config, sockets)
    assert final_digest(result) == final_digest(photon.train(config.but(name="local")))
    of, asked, expected = {c: n for n, cs in PLACES.items() for c in cs}, {}, []
    for number, record in enumerate(records(result)):
        node = of[record["accepted"][0]]
        missed = number - asked.get(node, -9)
        # Two differences in bf16 with their headers are longer than the base: then that comes.
        expected.append(0 if number == 0 else 2 if missed == 1 else 4)
        asked[node] = number
    assert sent_down(result, "parameters") == [each * result.parameters for each in expected]
    assert 2 in expected
    assert expected.count(4) > 2


def test_a_node_that_comes_back_goes_on_from_what_it_holds(make, four, tmp_path):
    config = make("fl.n_rounds=2", "photon.n_nodes=1")
    everyone = {"a": [0, 1, 2, 3]}
    with nodes(tmp_path, four, everyone) as sockets:
        first = train(config, sockets)
    local = photon.train(config.but(name="local"))
    whole = final_digest(photon.resume(local.folder, ["fl.n_rounds=3"]))
    with nodes(tmp_path, four, everyone) as sockets:
        result = experiment.resume(
            first.folder, ["fl.n_rounds=3"], engine=loopback.over_sockets(sockets)
        )
    assert final_digest(result) == whole
    assert sent_down(result, "parameters")[2:] == [2 * result.parameters]


@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_node_that_has_lost_what_it_held_gets_it_whole(make, four, tmp_path, monkeypatch, damage):
    real, hurt = Mailbox.bring_base, []

    def bring_base(self, ticket, steps, *others):
        if steps and not hurt:
            (held,) = self.folder.glob("base-*")
            hurt.append(held)
            if damage == "gone":
                held.unlink()
            else:
                data = bytearray(held.read_bytes())
                data[-1] ^= 1
                held.write_bytes(data[:-8] if damage == "cut" else data)
        return real(self, ticket, steps, *others)

    monkeypatch.setattr(Mailbox, "bring_base", bring_base)
    config, lines = make("photon.n_nodes=1"), []
    with nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as sockets:
        result = train(config, sockets, lines)
    assert hurt
    assert any("trying again" in line for line in lines)
    assert final_digest(result) == final_digest(photon.train(config.but(name="local")))
    assert sent_down(result, "parameters")[1] == 4 * result.parameters


def test_a_node_that_makes_other_weights_of_the_seed_gets_the_servers(
    make, four, tmp_path, monkeypatch
):
    def other(inner, seed):
        model = build_model(inner, seed)
        next(iter(parameters_of(model).values())).data[0] += 1e-3
        return model

    monkeypatch.setattr(hosted_run, "build_model", other)
    config, lines = make("photon.n_nodes=1", "fl.n_rounds=1"), []
    with nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as sockets:
        result = train(config, sockets, lines)
    assert any("of it; trying again" in line for line in lines)
    assert final_digest(result) == final_digest(photon.train(config.but(name="local")))
    assert sent_down(result, "parameters") == [4 * result.parameters]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_node_that_is_killed_in_a_round_gets_the_difference_again(
    make, four, tmp_path, monkeypatch
):
    """It says what it holds when it is back, whatever the server has sent it before."""
    real, gone = HostedRun.train, []

    def train_once_less(self, request, should_stop):
        if request.round == 2 and not gone:
            gone.append(request)
            raise SystemExit  # as a process that ends: no answer comes
        return real(self, request, should_stop)

    monkeypatch.setattr(HostedRun, "train", train_once_less)
    config = make("photon.n_nodes=1", "fl.n_rounds=2", "fl.aggregate_momenta=false")
    with nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as sockets:
        result = train(config, sockets)
    assert gone
    assert final_digest(result) == final_digest(photon.train(config.but(name="local")))
    assert sent_down(result, "parameters") == [0, 2 * result.parameters]


@pytest.mark.parametrize("keys", [[], ["fl.aggregate_momenta=false"]], ids=str)
def test_who_missed_rounds_gets_the_newest_moments_once(make, four, tmp_path, keys):
    """On one machine as many bytes are counted as nodes of one client each get, but for the sizes
    of headers and of instructions.
    """
    config = make("fl.n_clients_per_round=2", "fl.n_rounds=7", "photon.n_nodes=4", *keys,
                  "fl.compression.download=int2", "fl.compression.upload=bf16")  # fmt: skip
    places = {name: [client] for client, name in enumerate("abcd")}
    with nodes(tmp_path, four, places) as sockets:
        result = train(config, sockets)
    local = photon.train(config.but(name="local"))
    assert final_digest(result) == final_digest(local)
    for kind in ("parameters", "moments"):
        assert sent_down(result, kind) == sent_down(local, kind), kind
    missed, asked = [], {}
    for number, record in enumerate(records(result)):
        missed.append([number - asked.get(client, number) for client in record["accepted"]])
        asked |= dict.fromkeys(record["accepted"], number)
    assert any(2 in each for each in missed), "somebody has missed a round"
    if not keys:
        moments = sent_down(result, "moments")
        (once,) = {m // len(each) for m, each in zip(moments, missed, strict=True) if min(each) > 0}
        assert all(m % once == 0 for m in moments)


@pytest.mark.parametrize(
    "keys",
    [["fl.first_moment_period=3", "fl.second_moment_period=2"], ["fl.fragments=2", "seed=2"]],
    ids=str,
)
def test_who_missed_rounds_makes_the_same_container_of_the_differences(make, four, tmp_path, keys):
    """Whichever rounds its moments have come in."""
    config = make("fl.n_clients_per_round=2", "fl.n_rounds=6", "photon.n_nodes=4", *keys,
                  "fl.compression.download=int2", "fl.compression.upload=bf16")  # fmt: skip
    lines: list[str] = []
    with nodes(tmp_path, four, {name: [client] for client, name in enumerate("abcd")}) as sockets:
        result = train(config, sockets, lines)
    assert [line for line in lines if "trying again" in line] == []
    assert final_digest(result) == final_digest(photon.train(config.but(name="local")))


@pytest.mark.parametrize(
    "keys", [["fl.compression.download=e3m0"], ["fl.aggregate_momenta=false"]], ids=str
)
def test_a_copy_with_other_codecs_tells_its_first_base_whole(make, four, tmp_path, keys):
    """A node that hosted the source cannot make it of what it holds."""
    one_node = ["photon.n_nodes=1", "fl.compression=int4"]
    copy = ["run_uuid=two", "photon.restore_run_uuid=one", "photon.copy_client_checkpoints=false"]
    lines: list[str] = []
    with nodes(tmp_path, four, {"a": [0, 1, 2, 3]}) as sockets:
        train(make(*one_node, "run_uuid=one", "fl.n_rounds=2"), sockets)
        train(make(*one_node, *copy, "fl.n_rounds=3", *keys), sockets, lines)
    assert [line for line in lines if "trying again" in line] == []
