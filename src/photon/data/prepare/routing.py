"""In which order documents are taken, and where each of them goes.

A route yields documents with the position behind each of them; from any such position it goes on
with the same documents in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from photon.core.seeds import generator
from photon.data.prepare.corpus import Document
from photon.data.prepare.partition import VALIDATION, Partition, Placement, Sized
from photon.data.prepare.sources import Source

BLOCK_CHARACTERS = 1 << 26
"""Text that is shuffled together at most: a block is held in memory."""

Position = tuple[int, ...]
"""Where a route stands: integers that only the route itself can read."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A document on its way.

    Attributes:
        digest: hash of its text, 63 bits.
        place: part of the data set that it goes to, such as `client_3/train`.
        behind: position at which the route goes on after it.
    """

    document: Document
    digest: int
    place: str
    behind: Position


class Route(Protocol):
    def start(self) -> Position: ...

    def documents(self, position: Position) -> Iterator[Routed]: ...

    def share(self, position: Position) -> float | None:
        """Which share of the source lies before a position, roughly; None if that is unknown."""
        ...

    def files_read(self, position: Position | None) -> list[int]:
        """Numbers of the source's files that were opened before a position."""
        ...

    def training_parts(self, seed: int) -> list[tuple[int, Iterator[Document]]]:
        """What clients train on, part by part: the part's size in some unit, and its documents."""
        ...


def text_digest(text: str) -> int:
    """63 bits that name a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class ListedRoute:
    """Documents known beforehand, part by part: the position is how many were taken.

    Args:
        partition: of the documents' numbers.
        listed: the documents, of which sizes are known.
        load: gives a document by its number.
        files: numbers of the source's files that they come from.
    """

    def __init__(
        self,
        partition: Partition,
        listed: Sequence[Sized],
        load: Callable[[int], Document],
        files: Sequence[int] = (),
    ) -> None:
        self._items = [(VALIDATION, index) for index in partition.validation]
        parts = zip(partition.train, partition.held_out, strict=True)
        for client, (train, held_out) in enumerate(parts, partition.first):
            self._items += [(f"client_{client}/train", index) for index in train]
            self._items += [(f"client_{client}/validation", index) for index in held_out]
        self._partition, self._listed = partition, listed
        self._load, self._files = load, files

    def start(self) -> Position:
        return (0,)

    def documents(self, position: Position) -> Iterator[Routed]:
        for number in range(position[0], len(self._items)):
            place, index = self._items[number]
            document = self._load(index)
            yield Routed(document, text_digest(document.text), place, (number + 1,))

    def share(self, position: Position) -> float | None:
        return position[0] / len(self._items)

    def files_read(self, position: Position | None) -> list[int]:
        return list(self._files)

    def training_parts(self, seed: int) -> list[tuple[int, Iterator[Document]]]:
        """A client each, its documents in random order: those of a kind lie together otherwise."""
        parts = []
        for client, indices in enumerate(self._partition.train):
            order = generator(seed, "tokenizer", client).permutation(len(indices)).tolist()
            size = sum(self._listed[index].size for index in indices)
            parts.append((size, map(self._load, map(indices.__getitem__, order))))
        return parts


class StreamRoute:
    """A source's files in an addressed order, their documents shuffled block by block.

    The position is (block, file, place in the file, place in the block): where the block begins,
    and how much of it was taken. Nothing is buffered beyond one block.

    Args:
        block_documents: documents shuffled together, fewer if they reach `BLOCK_CHARACTERS`.
    """

    def __init__(
        self, source: Source, placement: Placement, *, seed: int, block_documents: int
    ) -> None:
        self.source, self.placement, self.seed = source, placement, seed
        self.block_documents = block_documents
        self._files = generator(seed, "files").permutation(source.num_files()).tolist()

    def start(self) -> Position:
        return (0, 0, 0, 0)

    def documents(self, position: Position) -> Iterator[Routed]:
        block, file, place, taken = position
        stream = self._stream(file, place)  # one for all blocks: each file is read once
        while True:
            documents, after = self._next_block(stream)
            if not documents:
                return
            dealt = [item for document in documents for item in self._deal(document)]
            order = generator(self.seed, "block", block).permutation(len(dealt))
            for number in range(taken, len(order)):
                last = number + 1 == len(order)
                behind = (block + 1, *after, 0) if last else (block, file, place, number + 1)
                folder, document = dealt[order[number]]
                yield Routed(document, text_digest(document.text), folder, behind)
            (file, place), block, taken = after, block + 1, 0

    def share(self, position: Position) -> float | None:
        return self.source.share(self._files, position[1])

    def files_read(self, position: Position | None) -> list[int]:
        if position is None:
            return []
        _, file, place, taken = position
        return list(self._files[: file + (place > 0 or taken > 0)])

    def training_parts(self, seed: int) -> list[tuple[int, Iterator[Document]]]:
        """A file each, from its beginning."""
        return [(self.source.size(file), self._trained(file)) for file in self._files]

    def _trained(self, file: int) -> Iterator[Document]:
        for _, document in self.source.documents(file, 0):
            for place, stretch in self._deal(document):
                if place.endswith("/train"):
                    yield stretch

    def first_block(self) -> list[Document]:
        return self._next_block(self._stream(0, 0))[0]

    def whole(self) -> list[Document] | None:
        """All documents, if they fit one block."""
        documents, (file, _) = self._next_block(self._stream(0, 0))
        return documents if file == len(self._files) else None

    def _deal(self, document: Document) -> list[tuple[str, Document]]:
        return self.placement.deal(text_digest(document.text), document)

    def _stream(self, file: int, place: int) -> Iterator[tuple[Document, tuple[int, int]]]:
        """Every document from a place on, with the place behind it."""
        for number in range(file, len(self._files)):
            start = place if number == file else 0
            for behind, document in self.source.documents(self._files[number], start):
                yield document, (number, behind)

    def _next_block(
        self, stream: Iterator[tuple[Document, tuple[int, int]]]
    ) -> tuple[list[Document], tuple[int, int]]:
        """The next documents that are shuffled together, and the place behind them."""
        documents: list[Document] = []
        size = 0
        for document, after in stream:
            documents.append(document)
            size += document.size
            if len(documents) >= self.block_documents or size >= BLOCK_CHARACTERS:
                return documents, after
        return documents, (len(self._files), 0)
