"""What is on disk is what is sent: no second copy of a base or of an update is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from photon.container.container import ContainerRef, parse_container, ref_of
from photon.core.messages import ClientState, ServerState, StreamState, Update
from photon.core.round import Rules, open_round
from photon.node.hosted_run import HostedRun
from photon.node.mailbox import Mailbox
from photon.run import artifact
from photon.run.base import Base, base_ref, received_of
from photon.run.checkpoint import load_update, save_answer, save_server_state, sent_file
from photon.server.depot import Depot
from photon.wire import inline
from photon.wire.buffers import Buffers
from photon.wire.facts import update_of
from photon.wire.inline import InlineServer
from photon.wire.messages import Get, Piece
from photon.wire.shared_memory import SharedMemory

STATE = ServerState(
    round=4, step=8, params={"w": torch.arange(6.0), "b": torch.ones(2)},
    outer={"momentum": {"w": torch.ones(6)}}, moments={"exp_avg": {"w": torch.zeros(6)}},
)  # fmt: skip
UPDATE = Update(
    run="r", round=5, client=3, gradient={"w": torch.ones(6)}, moments={}, num_tokens=9,
    num_steps=2, base_digest="d", metrics={"train_loss": 1.0},
)  # fmt: skip


@pytest.fixture
def plan():
    return open_round(STATE, run="r", steps={0: 2}, rules=Rules(quorum=1), base_digest="d")


def base_of(saved: Path, ref: ContainerRef) -> Base:
    return Base.at(sent_file(saved)[0], received_of(STATE), ref)


def bytes_of(ticket: dict[str, Any]) -> bytes:
    return bytes(ticket["data"].view())


def test_a_checkpoints_file_is_the_base(tmp_path, plan):
    saved = save_server_state(tmp_path / "checkpoints", STATE)
    depot = Depot(tmp_path / "depot", InlineServer())
    depot.publish(plan, base_of(saved, base_ref(received_of(STATE))))
    ticket = depot.way("").base
    file, ref = sent_file(saved)
    assert bytes_of(ticket) == file.read_bytes()
    assert ContainerRef.from_json(ticket) == ref
    tensors, _ = parse_container(memoryview(bytearray(bytes_of(ticket))))
    assert list(tensors) == ["params/w", "params/b", "moments/exp_avg/w"], "no outer moments"
    assert all(path.samefile(file) for path in (tmp_path / "depot").iterdir()), "no copy"
    depot.close()
    assert file.exists()


def test_what_a_node_is_getting_stays_when_another_base_comes(tmp_path, plan):
    """A merge may be opened, and its checkpoint deleted, while a slow node still gets its base."""
    saved = save_server_state(tmp_path / "checkpoints", STATE)
    later = save_server_state(
        tmp_path / "later", replace(STATE, params={"w": torch.ones(6), "b": torch.ones(2)})
    )
    depot = Depot(tmp_path / "depot", SharedMemory.create("run"))
    ref = base_ref(received_of(STATE))
    depot.publish(plan, base_of(saved, ref))
    way = depot.way(None)
    file, _ = sent_file(saved)
    content = file.read_bytes()
    newest = base_of(later, sent_file(later)[1])
    depot.publish(plan, newest, in_use={ref.digest})
    file.unlink()
    assert Path(way.base["path"]).read_bytes() == content
    assert way.payloads[0].path.read_bytes() == content
    depot.publish(plan, newest)
    assert not Path(way.base["path"]).exists()
    assert not way.payloads[0].path.exists()
    depot.close()


def test_an_update_that_is_coming_goes_on_when_another_base_comes(tmp_path, plan, monkeypatch):
    """In three pieces, of which the second comes when a merge has been opened."""
    saved = save_server_state(tmp_path / "checkpoints", STATE)
    depot = Depot(tmp_path / "depot", InlineServer())
    base = base_of(saved, base_ref(received_of(STATE)))
    depot.publish(plan, base)
    file, ref = sent_file(saved)
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", -(-ref.size // 3))
    coming = depot.receive(0, {"via": "inline", **ref.to_json()})

    def answer(wanted: Get) -> Piece:
        depot.publish(plan, base)
        return Piece(data=Buffers(file.read_bytes()[wanted.offset :][: wanted.length]))

    wanted = next(coming)
    wanted = coming.send(answer(wanted))
    wanted = coming.send(answer(wanted))
    with pytest.raises(StopIteration) as done:
        coming.send(answer(wanted))
    assert list(done.value.value[0]) == ["params/w", "params/b", "moments/exp_avg/w"]
    depot.publish(plan, base)
    assert not list((tmp_path / "depot").glob("update*"))
    depot.close()


def test_where_clients_receive_a_part_it_is_written_for_them(tmp_path, plan):
    saved = save_server_state(tmp_path / "checkpoints", STATE)
    depot = Depot(tmp_path / "depot", InlineServer())
    ref = base_ref(received_of(STATE, ["b"]))
    depot.publish(replace(plan, sent=("b",)), base_of(saved, ref))
    ticket = depot.way("").base
    assert ref_of(memoryview(bytes_of(ticket))) == ref == ContainerRef.from_json(ticket)
    tensors, _ = parse_container(memoryview(bytearray(bytes_of(ticket))))
    assert list(tensors) == ["params/b", "moments/exp_avg/w"]
    depot.close()
    assert not list((tmp_path / "depot").iterdir())


def test_what_a_client_keeps_is_what_it_sends(tmp_path):
    kept = ClientState(round=5, stream=StreamState(), moments={"exp_avg": {"w": torch.ones(6)}})
    path = save_answer(tmp_path / "clients", UPDATE, kept)
    box = Mailbox(tmp_path / "mail")
    run: Any = SimpleNamespace(folder=SimpleNamespace(clients=tmp_path / "clients"), _mailbox=box)
    never = lambda: False  # noqa: E731
    ticket = HostedRun._offer(run, load_update(path), {"via": "inline"}, never)
    assert bytes_of(ticket) == artifact.read(path).file("update")[0].read_bytes()
    assert not list((tmp_path / "mail").iterdir())
    tensors, facts = parse_container(memoryview(bytearray(bytes_of(ticket))))
    assert list(tensors) == ["gradient/w"], "no moments of its own"
    assert update_of(tensors, facts).num_tokens == 9
    folded = HostedRun._offer(run, replace(UPDATE, covers=(3, 4)), {"via": "inline"}, never)
    assert bytes_of(folded) == (tmp_path / "mail" / "client_3").read_bytes() != bytes_of(ticket)


def test_an_update_is_read_without_what_its_client_keeps(tmp_path):
    kept = ClientState(round=5, stream=StreamState(), moments={"exp_avg": {"w": torch.ones(6)}})
    path = save_answer(tmp_path, UPDATE, kept)
    artifact.read(path).file("own")[0].unlink()
    assert torch.equal(load_update(path, verify=True).gradient["w"], UPDATE.gradient["w"])
