"""A client's mixture of several folders of rows, with exact counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from photon.core.seeds import generator
from photon.data.apportion import apportion
from photon.data.read.shards import RowSource, gather
from photon.errors import DataError

MOST_TIMES = 1 << 20
"""How often an epoch may hold all rows of a folder: the order of each time is made of its own."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of a folder an epoch holds; at most one is given, none: each row once.

    Attributes:
        proportion: share of the epoch, relative to the other folders.
        repeat: how often each row comes, also a fraction.
        choose: number of rows.
    """

    proportion: float | None = None
    repeat: float | None = None
    choose: int | None = None


def epoch_counts(num_rows: Sequence[int], amounts: Sequence[Amount]) -> list[int]:
    """Rows of each folder in one epoch.

    Proportions share out as many rows as all the folders have, by largest remainders, so that the
    counts sum to that exactly.
    """
    if any(amount.proportion is not None for amount in amounts):
        return apportion(sum(num_rows), np.array([amount.proportion or 0.0 for amount in amounts]))
    return [
        amount.choose if amount.choose is not None else round(rows * (amount.repeat or 1.0))
        for rows, amount in zip(num_rows, amounts, strict=True)
    ]


class MixedRows:
    """Rows of several folders behind one another; the same interface as `Rows`.

    Of a folder with n rows, an epoch of c holds each row c // n times and c % n of them, chosen by
    an addressed permutation, once more.

    Attributes:
        unread: folders of which that is not even one row, and their amounts, in words.

    Args:
        parts: the folders' rows.
        amounts: of each.
        seed: of the choice, where not all rows come equally often; a client's own.

    Raises:
        DataError: rows of different lengths, none at all, or a folder's more than `MOST_TIMES`.
    """

    def __init__(self, parts: Sequence[RowSource], amounts: Sequence[Amount], seed: int) -> None:
        lengths = {part.sequence_length for part in parts}
        if len(lengths) != 1:
            raise DataError(
                f"{', '.join(str(part.folder) for part in parts)}: rows of different lengths "
                f"({', '.join(map(str, sorted(lengths)))}) do not mix"
            )
        self.parts, self.counts = tuple(parts), epoch_counts([len(p) for p in parts], amounts)
        _refuse_endless(parts, amounts, self.counts)
        if not len(self):
            raise DataError(
                f"{'; '.join(map(_described, parts, amounts))}: that is not even one row; raise "
                "repeat in dataset.train.streams (or dataset.val.streams), or give choose"
            )
        self.unread = [
            _described(part, amount)
            for part, amount, count in zip(parts, amounts, self.counts, strict=True)
            if not count
        ]
        self.folder, self.sequence_length = parts[0].folder, lengths.pop()
        self._chosen = [
            _chosen(seed, number, len(part), count % len(part))
            for number, (part, count) in enumerate(zip(parts, self.counts, strict=True))
        ]
        self.shard_rows = [
            rows
            for part, count in zip(parts, self.counts, strict=True)
            for rows in (*part.shard_rows * (count // len(part)), count % len(part))
            if rows
        ]
        self.manifest = self._manifest()

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows by index: [len(indices), L + 1], int64."""
        return gather(indices, self.counts, self.sequence_length, self._read_folder)

    def _read_folder(self, number: int, places: np.ndarray) -> np.ndarray:
        """Rows of a folder, by places in its piece of the epoch: whole rounds, then the chosen."""
        size = len(self.parts[number])
        rows = places % size
        beyond = places >= self.counts[number] // size * size
        rows[beyond] = self._chosen[number][rows[beyond]]
        return self.parts[number].read(rows)

    def _manifest(self) -> dict[str, Any]:
        """What the mixture's text is like: the folders' sums, as often as they come."""
        weights = [c / len(p) for c, p in zip(self.counts, self.parts, strict=True)]
        manifests = [part.manifest for part in self.parts]
        summed: dict[str, Any] = {
            name: sum(m[name] * w for m, w in zip(manifests, weights, strict=True))
            for name in ("text_bytes", "text_tokens")
        }
        if all("unigram" in m for m in manifests):
            summed["unigram"] = sum(
                np.asarray(m["unigram"], dtype=np.float64) * w
                for m, w in zip(manifests, weights, strict=True)
            )
        shards = [shard for manifest in manifests for shard in manifest["shards"]]
        first = {key: value for key, value in manifests[0].items() if key != "unigram"}
        return {**first, **summed, "shards": shards}


def _refuse_endless(
    parts: Sequence[RowSource], amounts: Sequence[Amount], counts: Sequence[int]
) -> None:
    for part, amount, count in zip(parts, amounts, counts, strict=True):
        if count > MOST_TIMES * len(part):
            raise DataError(
                f"{_described(part, amount)}: an epoch would hold all of them more than "
                f"{MOST_TIMES:,} times; lower it in dataset.train.streams"
            )


def _described(part: RowSource, amount: Amount) -> str:
    given = {"proportion": amount.proportion, "choose": amount.choose}
    found = {name: value for name, value in given.items() if value is not None}
    ((name, value),) = (found or {"repeat": amount.repeat or 1}).items()
    return f"{part.folder}: {name}={value:g} of {len(part):,} rows"


def _chosen(seed: int, number: int, rows: int, count: int) -> np.ndarray:
    """Which rows of the folder of that number come once more than the others."""
    return generator(seed, "choose", number, rows).permutation(rows)[:count]
