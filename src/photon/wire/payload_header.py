"""The header of a payload: which tensors lie where in the body, and the facts that go with them.

Only the JSON that `write_header` makes is read: no keys twice, no other ones, no number that is not
finite, no other encoding, nothing deep.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from photon.core.tree import Tree
from photon.errors import PayloadError

MAX_HEADER_BYTES = 16 << 20
MAX_DEPTH = 32
"""Of lists and objects in the facts, one within the other."""
MAX_ELEMENTS = 1 << 48
ALIGN = 64
DTYPES = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i8": torch.int8,
    "u8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        start: of its first byte in the body; a multiple of `ALIGN`.
        count: elements.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.count * self.dtype.itemsize


def write_header(tensors: Tree, facts: Mapping[str, Any]) -> bytes:
    """Raises:
    PayloadError: a tensor or a fact is of a kind that does not travel.
    """
    offset, entries = 0, []
    for name, value in tensors.items():
        if value.dtype not in _NAMES:
            raise PayloadError(f"{name}: {value.dtype} does not travel")
        entries.append([name, _NAMES[value.dtype], list(value.shape), offset])
        offset += padded(value.numel() * value.element_size())
    try:
        header = _encode(facts, entries)
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"facts that do not travel ({error})") from None
    if len(header) > MAX_HEADER_BYTES:
        raise PayloadError(f"header of {len(header)} bytes; at most {MAX_HEADER_BYTES}")
    return header


def _encode(facts: Any, entries: Any) -> bytes:
    """The one form of a header.

    Raises:
        TypeError, ValueError, RecursionError: no JSON, not finite, not Unicode, too deep.
    """
    _require_shallow(facts, MAX_DEPTH)
    header = {"facts": facts, "tensors": entries}
    return json.dumps(header, allow_nan=False, ensure_ascii=False).encode()


def _require_shallow(value: Any, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        for each in value.values() if isinstance(value, Mapping) else value:
            _require_shallow(each, depth - 1)


def read_header(header: bytes) -> tuple[dict[str, Any], list[Entry]]:
    """Facts, and tensors in the order in which they lie in the body, without a gap.

    Raises:
        PayloadError: it is not as `write_header` makes it.
    """
    try:
        value = json.loads(header)
        facts, entries = value["facts"], value["tensors"]
        if not isinstance(facts, dict) or not isinstance(entries, list):
            raise TypeError("facts and tensors of another kind")
        if _encode(facts, entries) != header:
            raise ValueError("not in the form in which headers are written")
        return facts, list(_located(entries))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise PayloadError(f"malformed header ({str(error)[:200]!r})") from None


def _located(entries: list[Any]) -> Iterator[Entry]:
    names, end = set(), 0
    for name, dtype, shape, offset in entries:
        if not isinstance(name, str) or name in names:
            raise ValueError(f"tensor {str(name)[:80]!r} is no name or one twice")
        if type(offset) is not int or offset != end:
            raise ValueError(f"tensor {name[:80]!r} begins at {offset!r}, not {end}")
        entry = Entry(name, DTYPES[dtype], tuple(shape), end, _count(shape))
        names.add(name)
        end = padded(entry.end)
        yield entry


def _count(shape: Any) -> int:
    """Elements of a shape that torch can make."""
    if not isinstance(shape, list) or len(shape) > 16:
        raise ValueError(f"shape {str(shape)[:80]}")
    room = 1
    for length in shape:
        if type(length) is not int or length < 0:
            raise ValueError(f"shape {str(shape)[:80]}")
        room *= length or 1  # strides grow so, those of empty tensors too
        if room > MAX_ELEMENTS:
            raise ValueError(f"shape {str(shape)[:80]} is too large")
    return 0 if 0 in shape else room


def padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
