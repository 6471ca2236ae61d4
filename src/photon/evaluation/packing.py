"""Requests as batches: what several have in common is computed once, and padding is little.

A group of requests with a common beginning becomes one row: the beginning, then every request's
rest. Each rest stands at the positions it would have by itself and sees the beginning and itself.
Rows of about the same length go through the model together, so many that they fill a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from photon.evaluation.requests import ScoredText
from photon.model.layout import Layout

T = TypeVar("T")
PAD = -1
"""Number of the padding, where a row's prefix is 0 and its rests count from 1."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Requests in one row of tokens.

    Attributes:
        tokens: what the model is given.
        prefix: how many of them all requests share.
        rests: length of each request's own part.
        picks: (column, target, request): the logits of a column are to tell the target.
    """

    tokens: list[int]
    prefix: int
    rests: list[int]
    picks: list[tuple[int, int, int]]

    @property
    def is_plain(self) -> bool:
        """One text, its tokens one after another."""
        return sum(rest > 0 for rest in self.rests) <= 1


def pack(requests: Sequence[ScoredText], numbers: Sequence[int]) -> PackedRow:
    """One row of requests.

    Args:
        numbers: of the requests, by which the picks name them.
    """
    prefix = common_prefix([request.ids[:-1] for request in requests])
    tokens = list(requests[0].ids[:prefix])
    rests, picks = [], []
    for request, number in zip(requests, numbers, strict=True):
        start, rest = len(tokens), request.ids[prefix:-1]
        for at in range(len(request.ids) - request.num_answer, len(request.ids)):
            column = at - 1 if at <= prefix else start + at - 1 - prefix
            picks.append((column, request.ids[at], number))
        tokens += rest
        rests.append(len(rest))
    return PackedRow(tokens, prefix, rests, picks)


def common_prefix(texts: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all of them begin with."""
    low, high = min(map(tuple, texts)), max(map(tuple, texts))
    length = min(len(low), len(high))
    return next((at for at in range(length) if low[at] != high[at]), length)


def pack_groups(groups: Sequence[Sequence[ScoredText]], *, share: bool) -> list[PackedRow]:
    """Rows of all groups; the requests are numbered through, in order.

    Args:
        share: whether the model can compute a common beginning once. It is not worth it where the
            beginning is short: every token of a row asks for all the others.
    """
    rows, number = [], 0
    for group in groups:
        numbers = range(number, number + len(group))
        number += len(group)
        packed = pack(group, numbers) if share and len(group) > 1 else None
        if packed and (len(group) - 1) * packed.prefix >= len(packed.tokens) // 4:
            rows.append(packed)
        else:
            rows += [pack([one], [n]) for one, n in zip(group, numbers, strict=True)]
    return rows


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Packed rows of one forward pass.

    Attributes:
        tokens: [B, T].
        layout: None where all rows are plain.
        columns: of each pick, into the flattened [B * T].
        targets, numbers: of each pick.
        size: tokens without padding.
    """

    tokens: Tensor
    layout: Layout | None
    columns: Tensor
    targets: Tensor
    numbers: Tensor
    size: int


def batches(rows: Sequence[PackedRow], max_tokens: int) -> list[list[PackedRow]]:
    """Rows by length, longest first, in batches whose tokens with padding fit a budget."""
    kinds = [[row for row in rows if row.is_plain is plain] for plain in (True, False)]
    found = [by_length(kind, lambda row: len(row.tokens), max_tokens) for kind in kinds]
    return [*found[0], *found[1]]


def by_length(items: Iterable[T], length: Callable[[T], int], max_tokens: int) -> list[list[T]]:
    """Items longest first, in batches that fit a budget when all are as long as their first."""
    parts, rest = [], sorted(items, key=length, reverse=True)
    while rest:
        count = max(1, max_tokens // length(rest[0]))
        parts.append(rest[:count])
        rest = rest[count:]
    return parts


def collate(rows: Sequence[PackedRow], device: torch.device) -> PackedBatch:
    """Tensors of rows: short ones are filled up at their end."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens)] = torch.tensor(row.tokens)
    picks = [
        (number * width + column, target, request)
        for number, row in enumerate(rows)
        for column, target, request in row.picks
    ]
    columns, targets, numbers = torch.tensor(picks).to(device).unbind(1)
    layout = None if rows[0].is_plain else _layout(rows, width, device)
    size = sum(len(row.tokens) for row in rows)
    return PackedBatch(tokens.to(device), layout, columns, targets, numbers, size)


def _layout(rows: Sequence[PackedRow], width: int, device: torch.device) -> Layout:
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    parts = torch.full((len(rows), width), PAD)
    for number, row in enumerate(rows):
        for part, start, length, position in _parts(row):
            positions[number, start : start + length] = torch.arange(position, position + length)
            parts[number, start : start + length] = part
    positions, parts = positions.to(device), parts.to(device)
    same = parts.unsqueeze(1) == parts.unsqueeze(2)
    shared = (parts == 0).unsqueeze(1)
    earlier = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    return Layout(positions, positions, (same | shared) & earlier)


def _parts(row: PackedRow) -> Iterator[tuple[int, int, int, int]]:
    """(number, first column, length, first position) of the prefix, 0, and of every rest."""
    yield 0, 0, row.prefix, 0
    start = row.prefix
    for number, length in enumerate(row.rests, 1):
        yield number, start, length, row.prefix
        start += length
