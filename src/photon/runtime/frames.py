"""Messages over a socket: four bytes of length, then msgpack; bounded, never a pickle."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

MAX_FRAME_BYTES = 1 << 20
"""Frames carry instructions and paths; tensors travel as files."""


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Send one message.

    Raises:
        OSError: the other side is gone.
    """
    body: bytes = msgpack.packb(message)  # pyright: ignore[reportAssignmentType]
    connection.sendall(struct.pack(">I", len(body)) + body)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Read the next message, or None when the other side has closed.

    Raises:
        ValueError: a frame that is too long or no message.
    """
    header = _read(connection, 4)
    if header is None:
        return None
    (length,) = struct.unpack(">I", header)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"frame of {length} bytes; at most {MAX_FRAME_BYTES} are allowed")
    body = _read(connection, length)
    if body is None:
        return None
    message = msgpack.unpackb(body, strict_map_key=False)
    if not isinstance(message, dict):
        raise ValueError("frame holds no message")
    return message


def _read(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = connection.recv(count - len(parts))
        except ConnectionError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
