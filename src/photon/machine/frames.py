"""Messages over a socket: four bytes of length, then that many bytes; bounded, never a pickle.

Sending raises `OSError` where the other side is gone. Reading gives None where it has closed the
connection, and raises `ValueError` for a frame that is longer than the reader allows.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

MAX_FRAME_BYTES = 1 << 20
"""Frames to workers carry instructions and paths; tensors travel as files."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message as msgpack."""
    body: bytes = msgpack.packb(message)  # pyright: ignore[reportAssignmentType]
    send_bytes(connection, body)


def try_send(connection: socket.socket, message: dict[str, Any]) -> bool:
    """Send one message, and say whether the other side was there for it."""
    try:
        send(connection, message)
    except OSError:
        return False
    return True


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read the next message; a frame that holds none is a `ValueError` too."""
    body = receive_bytes(connection, MAX_FRAME_BYTES)
    if body is None:
        return None
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
    except TypeError as error:  # a list, say, as a key
        raise ValueError(f"frame holds no message ({error})") from error
    if not isinstance(message, dict):
        raise ValueError("frame holds no message")
    return message


def send_bytes(connection: socket.socket, *parts: bytes | bytearray | memoryview) -> None:
    """Send one frame, given in parts."""
    connection.sendall(struct.pack(">I", sum(map(len, parts))))
    for part in parts:
        connection.sendall(part)


def receive_bytes(connection: socket.socket, most: int) -> memoryview | None:
    """Read the next frame, of `most` bytes at most."""
    length = receive_length(connection, most)
    return None if length is None else read(connection, length)


def receive_length(connection: socket.socket, most: int) -> int | None:
    """Read the length of the next frame, `most` at most; its bytes are for the caller to read."""
    header = read(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > most:
        raise ValueError(f"frame of {length} bytes; at most {most} are allowed")
    return length


def read(connection: socket.socket, count: int) -> memoryview | None:
    """Exactly `count` bytes; None where the other side closes before all have come."""
    buffer = bytearray(count)
    view, filled = memoryview(buffer), 0
    while filled < count:
        try:
            received = connection.recv_into(view[filled:])
        except ConnectionError:
            return None
        if not received:
            return None
        filled += received
    return view
