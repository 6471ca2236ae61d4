"""Arithmetic on named tensors.

A tree is a mapping from parameter name to tensor, each tied weight once. Names keep the order of
`named_parameters()`; two trees are compatible when names, shapes and that order agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

Tree = Mapping[str, Tensor]


class Row(Protocol):
    """What is read as a row of numbers, such as an encoded tensor."""

    @property
    def shape(self) -> torch.Size: ...

    def numel(self) -> int: ...

    def read(self, start: int, stop: int) -> Tensor: ...


Readable = Mapping[str, Tensor] | Mapping[str, Row]

CHUNK_ELEMENTS = 1 << 20
"""Elements handled at a time where a wider copy is needed: bounds the memory of a reduction."""


def zeros_like(tree: Tree) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in tree.items()}


def num_elements(tree: Tree) -> int:
    return sum(value.numel() for value in tree.values())


def num_bytes(tree: Tree) -> int:
    return sum(value.numel() * value.element_size() for value in tree.values())


def mismatch(tree: Tree, like: Tree) -> str | None:
    """Why `tree` cannot be combined with `like`, in one phrase, or None if it can."""
    if list(tree) != list(like):
        odd = sorted(set(tree) ^ set(like))
        return f"parameter {odd[0]} is on one side only" if odd else "parameters in another order"
    for name, value in tree.items():
        if value.shape != like[name].shape:
            return f"{name} has shape {list(value.shape)}, expected {list(like[name].shape)}"
    return None


def chunks(value: Tensor | Row) -> Iterator[Tensor]:
    """The flattened tensor in pieces of `CHUNK_ELEMENTS`; what is written to a piece is in it."""
    if isinstance(value, Tensor):
        yield from value.view(-1).split(CHUNK_ELEMENTS)
        return
    for start in range(0, max(1, value.numel()), CHUNK_ELEMENTS):
        yield value.read(start, min(start + CHUNK_ELEMENTS, value.numel()))


def dot(left: Readable, right: Readable) -> float:
    """Inner product, accumulated in float64 chunk by chunk."""
    total = 0.0
    for name, value in left.items():
        for a, b in zip(chunks(value), chunks(right[name]), strict=True):
            total += float(torch.dot(a.double(), b.double()))
    return total


def norm(tree: Readable) -> float:
    """Euclidean norm of all leaves together, accumulated as in `dot`."""
    total = 0.0
    for value in tree.values():
        for part in chunks(value):
            wide = part.double()
            total += float(torch.dot(wide, wide))
    return total**0.5


def all_finite(tree: Tree) -> bool:
    """Whether no element is NaN or infinite."""
    return all(bool(torch.isfinite(part).all()) for v in tree.values() for part in chunks(v))


def is_negative(tree: Readable) -> bool:
    """Whether any element is below zero."""
    return any(bool((part < 0).any()) for value in tree.values() for part in chunks(value))
