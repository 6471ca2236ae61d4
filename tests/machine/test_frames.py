"""Frames: whatever another process has sent, a reader gets a message or a `ValueError`."""

from __future__ import annotations

import socket

import msgpack
import pytest

from photon.machine import frames


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x81\x91\x01\x02", id="a list as a key"),
        pytest.param(msgpack.packb([1]), id="no message"),
        pytest.param(b"\x81\x01", id="torn"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x81\xa1\xff\x01", id="no text"),
        pytest.param(msgpack.packb({"a": 1}) * 2, id="two"),
        pytest.param(b"\x91" * 100_000, id="deep"),
    ],
)
def test_what_is_no_message_is_a_value_error(body: bytes):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send_bytes(theirs, body)
        with pytest.raises(ValueError):  # noqa: PT011
            frames.receive(ours)
