"""The header of a container: which tensors lie where behind it, and the facts that go with them.

Only the JSON that `write_header` makes is read: no keys twice, no other ones, no number that is not
finite, no other encoding, nothing deep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from photon.core.tree import Tree
from photon.errors import PayloadError

FORMAT = "2"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
MAX_NAME = 1000
MAX_DEPTH = 32
"""Of lists and objects in the facts, one within the other."""
MAX_ELEMENTS = 1 << 48
MAX_DIMENSIONS = 16
ALIGN = 64
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        start: of its first byte behind the header.
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


def body_order(tensors: Tree) -> list[tuple[str, Tensor]]:
    """Tensors as they lie in the body: without gaps, so wide elements first for their alignment."""
    return sorted(tensors.items(), key=lambda item: -item[1].element_size())


def write_header(tensors: Tree, facts: Mapping[str, Any]) -> bytes:
    """All that stands before the tensors' bytes; a multiple of `ALIGN` long.

    Raises:
        PayloadError: a tensor or a fact is of a kind that does not travel.
    """
    for name, value in tensors.items():
        if value.dtype not in _NAMES:
            raise PayloadError(f"{name}: {value.dtype} does not travel")
    kinds = [(name, value.dtype, tuple(value.shape)) for name, value in tensors.items()]
    try:
        header = _encode(facts, _placed(kinds))
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"names or facts that do not travel ({error})") from None
    if len(header) > MAX_HEADER_BYTES:
        raise PayloadError(f"header of {len(header)} bytes; at most {MAX_HEADER_BYTES}")
    return header


def _encode(facts: Any, entries: Iterable[Entry]) -> bytes:
    """The one form of a header. `format` is what `transformers` asks for.

    Raises:
        TypeError, ValueError, RecursionError: no JSON, not finite, not Unicode, too deep.
    """
    _require_shallow(facts, MAX_DEPTH)
    said = json.dumps(facts, allow_nan=False, ensure_ascii=False)
    about = {"format": "pt", "photon": FORMAT, "facts": said}
    described = {
        entry.name: {
            "dtype": _NAMES[entry.dtype],
            "shape": entry.shape,
            "data_offsets": [entry.start, entry.end],
        }
        for entry in entries
    }
    header = json.dumps({_METADATA: about, **described}, ensure_ascii=False).encode()
    header += b" " * (-(LENGTH_BYTES + len(header)) % ALIGN)
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def _require_shallow(value: Any, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        for each in value.values() if isinstance(value, Mapping) else value:
            _require_shallow(each, depth - 1)


def read_header(header: bytes) -> tuple[dict[str, Any], list[Entry]]:
    """Facts, and tensors in the order in which they were given.

    Raises:
        PayloadError: it is not as `write_header` makes it.
    """
    try:
        value = json.loads(header[LENGTH_BYTES:])
        about = value.pop(_METADATA)
        if (found := about["photon"]) != FORMAT:
            raise ValueError(f"format {found}; here is format {FORMAT}")
        facts = json.loads(about["facts"])
        if not isinstance(facts, dict):
            raise TypeError("facts of another kind")
        kinds = [(name, DTYPES[one["dtype"]], one["shape"]) for name, one in value.items()]
        entries = list(_placed(kinds))
        if _encode(facts, entries) != header:
            raise ValueError("not in the form in which headers are written")
        return facts, entries
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise PayloadError(f"malformed header ({str(error)[:200]!r})") from None


def _placed(kinds: list[tuple[str, torch.dtype, Any]]) -> Iterator[Entry]:
    """Where tensors lie, see `body_order`; in the order given.

    Raises:
        ValueError: a name or shape that is none.
    """
    starts, end = {}, 0
    for name, dtype, shape in sorted(kinds, key=lambda kind: -kind[1].itemsize):
        if name == _METADATA or len(name) > MAX_NAME:
            raise ValueError(f"tensor {name[:80]!r} is no name")
        starts[name], end = end, end + _count(shape) * dtype.itemsize
    for name, dtype, shape in kinds:
        yield Entry(name, dtype, tuple(shape), starts[name], _count(shape))


def _count(shape: Any) -> int:
    """Elements of a shape that torch can make, whose strides grow even where it is empty."""
    sound = isinstance(shape, list | tuple) and len(shape) <= MAX_DIMENSIONS
    if not sound or any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"shape {str(shape)[:80]}")
    if math.prod(length or 1 for length in shape) > MAX_ELEMENTS:
        raise ValueError(f"shape {str(shape)[:80]} is too large")
    return math.prod(shape)
