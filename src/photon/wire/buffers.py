"""Bytes in parts that stay where they lie, and a packing that does not copy them.

    head length (4) | head: msgpack | attached bytes

Buffers inside a packed value become an extension of msgpack: where their bytes begin among the
attached ones, and how many they are. So a message with a payload in it is sent from the file that
holds the payload, and needs memory only where it arrives, once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import msgpack

from photon.container.hashing import HASH
from photon.errors import PayloadError

LENGTH = struct.Struct(">I")
SPAN = struct.Struct(">QQ")
ATTACHED = 1
"""Code of the extension: start and length of attached bytes."""
LEAST_BYTES, FEW = 16, 1 << 16
"""Of a list or map, in the mean; and so many may be shorter. In memory an empty one takes 60."""

RawBytes = bytes | bytearray | memoryview


class Buffers:
    """Bytes, as one after another of these parts."""

    def __init__(self, *parts: RawBytes) -> None:
        self.parts = parts

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)

    @cached_property
    def digest(self) -> bytes:
        """Hash of all bytes."""
        state = HASH()
        for part in self.parts:
            state.update(part)
        return state.digest()

    def view(self) -> memoryview:
        """All bytes in one piece; no copy if they are one part."""
        return memoryview(self.parts[0] if len(self.parts) == 1 else b"".join(self.parts))


def pack(value: Mapping[str, Any]) -> Buffers:
    """A value of what msgpack knows, with `Buffers` in it anywhere."""
    attached: list[RawBytes] = []
    size = 0

    def attach(found: Any) -> msgpack.ExtType:
        nonlocal size
        if not isinstance(found, Buffers):
            raise TypeError(f"{type(found).__name__} does not travel")
        span = SPAN.pack(size, found.size)
        attached.extend(found.parts)
        size += found.size
        return msgpack.ExtType(ATTACHED, span)

    head = msgpack.packb(value, default=attach)
    assert head is not None
    return Buffers(LENGTH.pack(len(head)), head, *attached)


def unpack(data: Buffers) -> dict[str, Any]:
    """The value that was packed; its buffers are views of `data`.

    Raises:
        PayloadError: nothing that `pack` makes.
    """
    view = data.view()
    try:
        (length,) = LENGTH.unpack_from(view)
        head, attached = view[LENGTH.size : LENGTH.size + length], view[LENGTH.size + length :]
        if len(head) != length:
            raise ValueError("it is cut off")
        counted = _counting(max(FEW, length // LEAST_BYTES))
        value = msgpack.unpackb(
            head,
            strict_map_key=False,
            ext_hook=lambda code, span: _attached(code, span, attached),
            list_hook=counted,
            object_hook=counted,
        )
    except Exception as error:  # msgpack raises many kinds
        raise PayloadError(f"message of {len(view)} bytes: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise PayloadError(f"message of {len(view)} bytes: not one of ours")
    return value


def _counting(most: int) -> Callable[[Any], Any]:
    """Gives back what it is given, so many times."""
    left = most

    def count(found: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"more than {most} lists and maps")
        return found

    return count


def _attached(code: int, span: bytes, attached: memoryview) -> Buffers:
    if code != ATTACHED:
        raise ValueError(f"extension {code}")
    start, length = SPAN.unpack(span)
    if start + length > len(attached):
        raise ValueError("attached bytes are missing")
    return Buffers(attached[start : start + length])
