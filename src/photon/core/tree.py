"""Arithmetic on named tensors.

A tree is a mapping from parameter name to tensor, each tied weight once. Names keep the order of
`named_parameters()`; two trees are compatible when names, shapes and that order agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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

PIECE_ELEMENTS = 1 << 17
"""Elements that stay in a cache between two operations on them."""


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


def spans(tree: Readable, elements: int) -> list[tuple[str, int, int]]:
    """All of a tree in parts of so many elements: name, first, and the one after the last."""
    return [
        (name, start, min(start + elements, value.numel()))
        for name, value in tree.items()
        for start in range(0, max(1, value.numel()), elements)
    ]


def read(value: Tensor | Row, start: int, stop: int) -> Tensor:
    """Elements of the flattened tensor, without a copy where none is needed."""
    if isinstance(value, Tensor):
        return value.view(-1)[start:stop]
    return value.read(start, stop)


def summing_type(dtype: torch.dtype) -> torch.dtype:
    """A float type in which a sum of numbers of a type loses nothing that matters: to the 8 or 11
    bits of a 16-bit one float32 adds 13 or more, and is twice as quick.
    """
    return torch.float32 if dtype.itemsize == 2 else torch.float64


def dot(left: Tensor, right: Tensor) -> float:
    """Inner product of two rows: in their type, to six digits, where its range holds it, or else in
    float64.
    """
    found = float(torch.dot(left, right))
    return found if _is_held(found, left) else float(torch.dot(left.double(), right.double()))


def dots(rows: Tensor, row: Tensor) -> list[float]:
    """Inner products of several rows with one, as `dot` gives them."""
    found = torch.mv(rows, row.to(rows.dtype)).tolist()
    is_held = all(_is_held(one, rows) for one in found)
    return found if is_held else torch.mv(rows.double(), row.double()).tolist()


def _is_held(found: float, rows: Tensor) -> bool:
    """Whether no part of a sum of products can have been lost to the range of its type."""
    return rows.dtype == torch.float64 or 1e-30 < abs(found) < 1e30


def squares(tree: Readable) -> dict[str, float]:
    """Sum of the squares of each leaf; pieces are summed as `dot` does, their sums in float64."""
    found, row = dict.fromkeys(tree, 0.0), torch.empty(PIECE_ELEMENTS)
    for name, start, stop in spans(tree, PIECE_ELEMENTS):
        part = read(tree[name], start, stop)
        if part.dtype.itemsize < 4:
            part = row[: stop - start].copy_(part)
        found[name] += dot(part, part)
    return found


def norm(tree: Readable) -> float:
    """Euclidean norm of all leaves together."""
    return math.sqrt(sum(squares(tree).values()))


def all_finite(tree: Tree) -> bool:
    """Whether no element is NaN or infinite."""
    return all(bool(torch.isfinite(value).all()) for value in tree.values())


def is_negative(tree: Readable) -> bool:
    """Whether any element is below zero."""
    parts = (read(tree[name], *span) for name, *span in spans(tree, PIECE_ELEMENTS))
    return any(part.numel() > 0 and bool(part.amin() < 0) for part in parts)
