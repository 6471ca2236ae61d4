"""Wherever bytes come in, from another site or from before this process began, one flipped byte of
each tensor is seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from photon.container.container import ContainerRef, write_container
from photon.core.messages import Broadcast, ClientState, ServerState, StreamState, Update
from photon.core.parts import parts_of
from photon.core.round import Rules, open_round
from photon.errors import CorruptCheckpoint, PayloadError
from photon.node.mailbox import Mailbox
from photon.run import artifact, checkpoint
from photon.run.base import Base, base_ref, received_of
from photon.server.depot import Depot
from photon.training.state import TrainState
from photon.wire.buffers import Buffers
from photon.wire.inline import InlineServer
from photon.wire.messages import Put
from photon.wire.shared_memory import SharedMemory

STATE = ServerState(
    round=1, step=2, params={"w": torch.arange(500.0)},
    outer={"momentum": {"w": torch.ones(500)}},
)  # fmt: skip
OWN = ClientState(
    round=1, stream=StreamState(), moments={"exp_avg": {"w": torch.ones(500)}}
)  # fmt: skip
UPDATE = Update(
    run="r", round=1, client=0, gradient={"w": torch.ones(500)}, moments={}, num_tokens=9,
    num_steps=2, base_digest="d", metrics={"train_loss": 1.0},
)  # fmt: skip


def no_seed() -> Broadcast:
    raise AssertionError("the ticket says where the base is")


def flip(path: Path) -> None:
    """Change a byte of the last tensor, in place."""
    with open(path, "r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def answer(folder: Path) -> Path:
    return checkpoint.save_answer(folder, UPDATE, OWN)


def server_state(folder: Path) -> Path:
    return checkpoint.save_server_state(folder, STATE)


def train_state(folder: Path) -> Path:
    state = TrainState(params={"w": torch.ones(500)}, moments={"exp_avg": {"w": torch.ones(500)}})
    return checkpoint.save_train_state(folder, "train", state)


@pytest.mark.parametrize(
    ("save", "part", "load"),
    [
        (server_state, "base", checkpoint.load_server_state),
        (server_state, "own", checkpoint.load_server_state),
        (server_state, "base", checkpoint.load_parameters),
        (train_state, "base", checkpoint.load_train_state),
        (train_state, "own", checkpoint.load_train_state),
        (answer, "own", checkpoint.load_client_state),
        (answer, "update", lambda path: checkpoint.load_update(path, verify=True)),
    ],
)
def test_of_files(tmp_path, save: Callable[[Path], Path], part: str, load: Callable[[Path], Any]):
    path = save(tmp_path)
    load(path)
    flip(artifact.read(path).file(part)[0])
    with pytest.raises(CorruptCheckpoint, match="are not those that were written"):
        load(path)


@pytest.fixture
def base(tmp_path) -> tuple[Path, ContainerRef]:
    path = tmp_path / "base"
    return path, write_container(path, *parts_of(Broadcast(params=STATE.params)))


@pytest.mark.parametrize("way", ["in the instruction", "in pieces", "shared memory"])
def test_of_a_base_at_a_node(tmp_path, base, way):
    path, ref = base
    box = Mailbox(tmp_path / "mail")
    shared = SharedMemory.create("run")
    ticket: dict[str, Any] = {"via": "inline", **ref.to_json()}
    if way == "shared memory":
        ticket = shared.offer(path, ref)
    flip(Path(ticket.get("path", path)))
    data = Buffers(path.read_bytes())
    if way == "in pieces":
        box.take(Put(digest=ref.digest, size=ref.size, offset=0, data=data))
    elif way == "in the instruction":
        ticket["data"] = data
    try:
        with pytest.raises(PayloadError, match=f"of payload {ref.digest[:12]}"):
            box.bring_base(ticket, [], None, no_seed, lambda: False)
        assert not list((tmp_path / "mail").glob("base-*"))
    finally:
        box.close()
        shared.close()


@pytest.mark.parametrize("via", ["inline", "shm"])
def test_of_an_update_at_the_server(tmp_path, via):
    saved, received = server_state(tmp_path / "checkpoints"), received_of(STATE)
    transport = InlineServer() if via == "inline" else SharedMemory.create("run")
    depot, box = Depot(tmp_path / "depot", transport), Mailbox(tmp_path / "mail")
    name = base_ref(received)
    plan = open_round(STATE, run="r", steps={0: 2}, rules=Rules(quorum=1), base_digest=name.digest)
    depot.publish(plan, Base.at(checkpoint.sent_file(saved)[0], received, name))
    file, ref = checkpoint.sent_file(answer(tmp_path / "clients"))
    ticket = box.offer(file, ref, depot.grants([0])[0], lambda: False)
    flip(Path(ticket.get("path", file)))
    if "data" in ticket:
        ticket["data"] = Buffers(file.read_bytes())
    try:
        with pytest.raises(PayloadError, match=f"of payload {ref.digest[:12]}"):
            list(depot.receive(0, ticket))
    finally:
        depot.close()
        box.close()
