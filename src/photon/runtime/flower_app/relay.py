"""Both Flower apps: they move bytes between Flower and a Unix socket, and know nothing else.

This file travels to the nodes inside Flower's bundle, so it imports Flower and the standard library
only. A frame to and from the server: length (4 bytes), kind (1), request (8), node (8), body.
"""

import json
import select
import socket
import struct
import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

NODES, ANSWER, LOST = b"N", b"A", b"L"
POLL_SECONDS = 0.25
NODES_SECONDS = 1.0
TTL_SECONDS = 14 * 86_400.0
HEAD = struct.Struct(">cQQ")

client = ClientApp()
server = ServerApp()


@client.query()
def relay_to_node(message, context):
    """One request to the node's resident service, and its answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(context.node_config["socket"]))
        write_frame(connection, message.content["photon"]["body"])
        answer = read_frame(connection)
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


def _relay(grid, connection):
    requests, told, asked = {}, None, 0.0
    while True:
        while select.select([connection], [], [], 0 if requests else POLL_SECONDS)[0]:
            frame = read_frame(connection)
            if frame is None:
                return
            _forward(grid, connection, frame, requests)
        for reply in grid.pull_messages(list(requests)) if requests else ():
            request = requests.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                _tell(connection, LOST, request)
            else:
                _tell(connection, ANSWER, request, reply.content["photon"]["body"])
        if time.monotonic() - asked > NODES_SECONDS:
            asked, nodes = time.monotonic(), sorted(grid.get_node_ids())
            if nodes != told:
                told = nodes
                _tell(connection, NODES, 0, json.dumps(nodes).encode())
        if requests:
            time.sleep(POLL_SECONDS)


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


def read_frame(connection):
    """The next frame; None when the other side has closed."""
    head = _read(connection, 4)
    return None if head is None else _read(connection, struct.unpack(">I", head)[0])


def _read(connection, count):
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        received = connection.recv_into(view[filled:])
        if not received:
            return None
        filled += received
    return bytes(buffer)
