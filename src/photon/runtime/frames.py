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


def send_bytes(connection: socket.socket, body: bytes) -> None:
    """Send one frame.

    Raises:
        OSError: the other side is gone.
    """
    connection.sendall(struct.pack(">I", len(body)))
    connection.sendall(body)


def receive_bytes(connection: socket.socket, most: int) -> bytes | None:
    """Read the next frame, or None when the other side has closed.

    Raises:
        ValueError: it is longer than `most`.
    """
    header = _read(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > most:
        raise ValueError(f"frame of {length} bytes; at most {most} are allowed")
    return _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes | None:
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
    return bytes(buffer)
