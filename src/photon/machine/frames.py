"""Messages over a socket: four bytes of length, then that many bytes; bounded, never a pickle."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

MAX_FRAME_BYTES = 1 << 20
"""Frames to workers carry instructions and paths; tensors travel as files."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message as msgpack.

    Raises:
        OSError: the other side is gone.
    """
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
    """Read the next message, or None when the other side has closed.

    Raises:
        ValueError: a frame that is too long or no message.
    """
    body = receive_bytes(connection, MAX_FRAME_BYTES)
    if body is None:
        return None
    message = msgpack.unpackb(body, strict_map_key=False)
    if not isinstance(message, dict):
        raise ValueError("frame holds no message")
    return message


def send_bytes(connection: socket.socket, *parts: bytes | bytearray | memoryview) -> None:
    """Send one frame, given in parts.

    Raises:
        OSError: the other side is gone.
    """
    connection.sendall(struct.pack(">I", sum(map(len, parts))))
    for part in parts:
        connection.sendall(part)


def receive_bytes(connection: socket.socket, most: int) -> memoryview | None:
    """Read the next frame, or None when the other side has closed.

    Raises:
        ValueError: it is longer than `most`.
    """
    length = receive_length(connection, most)
    return None if length is None else read(connection, length)


def receive_length(connection: socket.socket, most: int) -> int | None:
    """Wait for the next frame; what follows is to be read.

    Raises:
        ValueError: it is longer than `most`.
    """
    header = read(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > most:
        raise ValueError(f"frame of {length} bytes; at most {most} are allowed")
    return length


def read(connection: socket.socket, count: int) -> memoryview | None:
    """So many bytes; None when the other side closes before."""
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
