"""The server's relay among nodes of which one sends what it likes: it costs the others nothing."""

from __future__ import annotations

import importlib.util
import socket
import struct
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity

from photon.flower.link import ANSWER, HEAD, LOST, NODES, SEND
from photon.flower.superlink import APP
from photon.machine import frames
from photon.wire.messages import MAX_MESSAGE_BYTES

SPEC = importlib.util.spec_from_file_location("relay", APP / "relay.py")
assert SPEC is not None
assert SPEC.loader is not None
relay = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(relay)


class Link:
    """Stands for the SuperLink: requests go in, replies come out as their nodes have made them."""

    def __init__(self, replies) -> None:
        self.node, self.run = Node(node_id=1), SimpleNamespace(run_id=1)
        self.replies, self.objects, self.waiting, self.confirmed = replies, {}, [], []
        self.answered = threading.Semaphore(0)

    def get_node_ids(self):
        return list(self.replies)

    def push_messages(self, messages):
        (message,) = messages
        message.metadata.__dict__["_message_id"] = f"to-{message.metadata.dst_node_id}"
        self.waiting.append(message)
        return [message.metadata.message_id]

    @property
    def _runtime_client(self):
        return self

    def PullMessages(self, request):  # noqa: N802
        assert set(request.message_ids) >= {m.metadata.message_id for m in self.waiting}
        protos, trees = [], []
        while self.waiting:
            message = self.waiting.pop(0)
            for proto, tree, objects in self.replies[message.metadata.dst_node_id](message):
                protos.append(proto)
                trees.append(tree)
                self.objects |= objects
            self.answered.release()
        return PullAppMessagesResponse(messages_list=protos, message_object_trees=trees)

    def PullObject(self, request):  # noqa: N802
        content = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=content is not None,
            object_available=content != b"",
            object_content=content,
        )

    def waiting_for(self, answers):
        for _ in range(answers):
            assert self.answered.acquire(timeout=20)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


def reply_with(content, change=lambda proto, tree, objects: None):
    """A node that answers so."""

    def answer(message):
        reply = Message(content, reply_to=message)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
            tree = get_object_tree(reply)
        proto = message_to_proto(remove_content_from_message(reply))
        change(proto, tree, objects)
        return [(proto, tree, objects)]

    return answer


def record(body, name="photon"):
    return RecordDict({name: ConfigRecord({"body": body})})


def damaged(proto, tree, objects):
    objects[proto.metadata.message_id] = b"no object at all"


def of_another(proto, tree, objects):
    proto.metadata.reply_to_message_id = "to-99"


def withheld(proto, tree, objects):
    objects |= dict.fromkeys(objects, b"")


def gone(proto, tree, objects):
    objects.clear()


BAD = {
    "too long": record(bytes(MAX_MESSAGE_BYTES + 1)),
    "no record of ours": record(b"x", name="other"),
    "no record": RecordDict(),
    "no bytes": record("text"),
    "a list": record([b"a", b"b"]),
    "another type": RecordDict({"photon": ArrayRecord({"body": Array("u1", (1,), "x", b"x")})}),
    "many records": RecordDict({str(n): ConfigRecord({"n": n}) for n in range(9)}),
    "an error": Error(code=0, reason="x"),
}
UNTOLD = {"withheld": withheld, "of another": of_another}
"""Bad ones that nothing is said of: their node may still come with the rest."""


class Relay:
    """A relay at work in a thread, at its server's end."""

    def __init__(self, link: Link) -> None:
        self.socket, self._theirs = socket.socketpair()
        self.told: dict[int, tuple[bytes, bytes]] = {}
        self.thread = threading.Thread(target=relay._relay, args=(link, self._theirs))

    def __enter__(self) -> Relay:
        self.thread.start()
        self.socket.settimeout(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_WR)
        self.thread.join(20)
        self.socket.close()
        self._theirs.close()

    def send(self, request, to):
        frames.send_bytes(self.socket, HEAD.pack(SEND, request, to), b"hello")

    def listen(self, count):
        while len(self.told) < count:
            frame = frames.receive_bytes(self.socket, MAX_MESSAGE_BYTES + HEAD.size)
            assert frame is not None, "the relay has ended"
            kind, request, _ = HEAD.unpack(frame[: HEAD.size])
            if kind != NODES:
                self.told[request] = (kind, bytes(frame[HEAD.size :]))


@pytest.fixture(autouse=True)
def of_a_task(monkeypatch):
    for number in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, number, 1)


@pytest.mark.parametrize("bad", [*BAD, "damaged", "gone", *UNTOLD])
def test_a_bad_answer_costs_its_sender_alone(bad):
    change = {"damaged": damaged, "gone": gone} | UNTOLD
    node = reply_with(BAD[bad]) if bad in BAD else reply_with(record(b"x"), change[bad])
    link = Link({2: node, 3: reply_with(record(b"honest")), 4: lambda message: []})
    with Relay(link) as at_work:
        for request, to in ((7, 2), (8, 3), (9, 4)):
            at_work.send(request, to)
        at_work.listen(1 if bad in UNTOLD else 2)
        at_work.send(10, 3)
        at_work.listen(2 if bad in UNTOLD else 3)
    honest = {8: (ANSWER, b"honest"), 10: (ANSWER, b"honest")}
    assert at_work.told == honest | ({} if bad in UNTOLD else {7: (LOST, b"")})
    assert not at_work.thread.is_alive()


def test_an_answer_whose_node_goes_before_all_of_it_has_come_is_lost(monkeypatch):
    monkeypatch.setattr(relay, "NODES_SECONDS", 0.0)
    half = reply_with(record(b"x"), withheld)
    link = Link({2: half, 3: half})
    with Relay(link) as at_work:
        at_work.send(7, 2)
        at_work.send(8, 3)
        link.waiting_for(2)
        del link.replies[2]
        at_work.listen(1)
    assert at_work.told == {7: (LOST, b"")}


def test_a_nodes_relay_reads_no_answer_that_is_too_long():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack(">I", relay.MOST_BYTES + 1))
        with pytest.raises(ValueError, match="at most"):
            relay.read_frame(theirs, relay.MOST_BYTES)
    assert relay.MOST_BYTES == MAX_MESSAGE_BYTES
