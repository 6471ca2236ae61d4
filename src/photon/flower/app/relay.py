"""Both Flower apps: they move bytes between Flower and a Unix socket, and know nothing else.

This file travels inside Flower's bundle, so it imports Flower, what Flower needs, and the standard
library only. A frame to and from the server: length (4 bytes), kind (1), request (8), node (8),
body.
"""

import json
import select
import socket
import struct
import time

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import ServerApp
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

NODES, ANSWER, LOST = b"N", b"A", b"L"
SHORTEST_PAUSE, LONGEST_PAUSE = 0.02, 0.25
NODES_SECONDS = 1.0
TTL_SECONDS = 14 * 86_400.0
MOST_BYTES = 68 << 20
MOST_PARTS = 3  # a message, its records, the one record
HELD_SECONDS = 1800.0
HEAD = struct.Struct(">cQQ")

client = ClientApp()
server = ServerApp()


@client.query()
def relay_to_node(message, context):
    """One request to the node's resident service, and its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(context.node_config["socket"]))
        write_frame(connection, message.content["photon"]["body"])
        answer = read_frame(connection, MOST_BYTES)
    if answer is None:
        raise ConnectionError("the node's service went away")
    return Message(_record(answer), reply_to=message)


@server.main()
def relay_to_server(grid, context):
    """Messages of `photon server` to nodes, and their answers back, until it closes the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(context.run_config["socket"]))
        write_frame(connection, str(context.run_config["token"]).encode())
        _relay(grid, connection)


class Coming:
    """A reply whose parts may still be on their way from its node.

    The grid's own `pull_messages` waits for them, for an hour and more, and one that cannot be read
    takes those beside it along: here each costs nobody but its sender.
    """

    def __init__(self, request, reply, tree):
        self.request, self.name = request, reply.metadata.message_id
        self.node = reply.metadata.src_node_id
        self.is_error = reply.HasField("error")
        self.missing = [part.object_id for part in iterate_object_tree(tree)]
        self.parts, self.until = {}, time.monotonic() + HELD_SECONDS

    def body(self, grid):
        """The answer's bytes; None: some parts are still on their way.

        Raises:
            ValueError: it is no answer.
        """
        if self.is_error or len(self.missing) + len(self.parts) > MOST_PARTS:
            raise ValueError
        while self.missing:
            request = PullObjectRequest(
                node=grid.node, run_id=grid.run.run_id, object_id=self.missing[0]
            )
            part = grid._runtime_client.PullObject(request)
            if not part.object_found or time.monotonic() > self.until:
                raise ValueError
            if not part.object_available:
                return None
            self.parts[self.missing.pop(0)] = part.object_content
        message = inflate_object_from_contents(self.name, self.parts)
        if not isinstance(message, Message):
            raise ValueError
        body = message.content["photon"]["body"]
        if not isinstance(body, bytes) or len(body) > MOST_BYTES:
            raise ValueError
        return body

    def settle(self, grid, connection):
        """Pass the reply on once all of it is here; whether it was, or was lost."""
        try:
            body = self.body(grid)
        except httpx.TransportError:
            raise
        except Exception:  # whatever a node may have sent
            _tell(connection, LOST, self.request)
        else:
            if body is None:
                return False
            _tell(connection, ANSWER, self.request, body)
        grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=grid.node, run_id=grid.run.run_id, message_object_id=self.name
            )
        )
        return True

    def may_come(self, nodes, connection):
        """Whether its node is here; what one that has gone had not sent yet is said to be lost."""
        if self.node in nodes:
            return True
        _tell(connection, LOST, self.request)
        return False


def _relay(grid, connection):
    requests, coming, told, asked = {}, [], None, 0.0
    moved = time.monotonic()
    while True:
        while select.select([connection], [], [], _pause(moved))[0]:
            frame = read_frame(connection)
            if frame is None:
                return
            _forward(grid, connection, frame, requests)
            moved = time.monotonic()
        new = list(_replies(grid, requests))
        waiting = coming + new
        coming = [reply for reply in waiting if not reply.settle(grid, connection)]
        if new or len(coming) < len(waiting):
            moved = time.monotonic()
        if time.monotonic() - asked > NODES_SECONDS:
            asked, nodes = time.monotonic(), sorted(grid.get_node_ids())
            coming = [reply for reply in coming if reply.may_come(nodes, connection)]
            if nodes != told:
                told = nodes
                _tell(connection, NODES, 0, json.dumps(nodes).encode())


def _pause(since):
    """Seconds until the next look, as Photon's own `Patience` has them."""
    return min(max((time.monotonic() - since) / 10, SHORTEST_PAUSE), LONGEST_PAUSE)


def _replies(grid, requests):
    """Replies that have come; their requests are taken off those that are waited for."""
    if not requests:
        return
    response = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=list(requests)))
    for reply, tree in zip(response.messages_list, response.message_object_trees, strict=True):
        request = requests.pop(reply.metadata.reply_to_message_id, None)
        if request is not None:
            yield Coming(request, reply, tree)


def _forward(grid, connection, frame, requests):
    _, request, node = HEAD.unpack(frame[: HEAD.size])
    content = _record(frame[HEAD.size :])
    message = Message(content, dst_node_id=node, message_type="query", ttl=TTL_SECONDS)
    sent = next(iter(grid.push_messages([message])), None)
    if sent is None:
        _tell(connection, LOST, request)
    else:
        requests[sent] = request


def _record(body):
    return RecordDict({"photon": ConfigRecord({"body": body})})


def _tell(connection, kind, request, body=b""):
    write_frame(connection, HEAD.pack(kind, request, 0) + body)


def write_frame(connection, body):
    """Length, then that many bytes."""
    connection.sendall(struct.pack(">I", len(body)))
    connection.sendall(body)


def read_frame(connection, most=2**32):
    """The next frame; None when the other side has closed.

    Raises:
        ValueError: it is longer than `most`.
    """
    head = _read(connection, 4)
    if head is None:
        return None
    (length,) = struct.unpack(">I", head)
    if length > most:
        raise ValueError(f"a frame of {length} bytes; at most {most} are allowed")
    return _read(connection, length)


def _read(connection, count):
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        received = connection.recv_into(view[filled:])
        if not received:
            return None
        filled += received
    return bytes(buffer)
