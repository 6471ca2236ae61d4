"""Documents to token arrays, in their order, on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from photon.data.routing import Routed
from photon.data.tokenizer import separator_id

BATCH_CHARACTERS = 1 << 21
_IN_FLIGHT = 2
"""Batches being tokenized at once: the second fills the cores that the tail of the first leaves."""
_WAITING = 2
"""Further batches read ahead."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """Text to token ids with exactly one separator between documents.

    Attributes:
        before: ids put before each document, usually none.
        after: ids put behind it.
    """

    tokenizer: Tokenizer
    before: tuple[int, ...]
    after: tuple[int, ...]

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text, uint32. Text that spells a special token stays text."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [
            np.array([*self.before, *encoding.ids, *self.after], dtype=np.uint32)
            for encoding in encodings
        ]


def separated(
    tokenizer: Tokenizer, bos_text: str | None = None, eos_text: str | None = None
) -> Encoder:
    """An encoder that puts one separator behind each document.

    Args:
        bos_text: token to put before it as well; nothing if it is the separator itself.
        eos_text: the separator; the tokenizer's own if not given.

    Raises:
        DataError: the tokenizer has no such token.
    """
    after = separator_id(tokenizer, eos_text)
    before = after if bos_text is None else separator_id(tokenizer, bos_text)
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Encoder(tokenizer, () if before == after else (before,), (after,))


def encode_in_order(
    documents: Iterable[Routed], encoder: Encoder, wanted: Callable[[Routed], bool]
) -> Iterator[tuple[Routed, np.ndarray | None]]:
    """Tokenize while the caller writes: the library's threads do the work without Python's lock.

    Args:
        wanted: whether a document is to be tokenized; else it comes with None.

    Yields:
        Documents in their order, each with its tokens.
    """
    source = iter(_batches(documents))
    waiting: deque[Future[list[tuple[Routed, np.ndarray | None]]]] = deque()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="tokenize") as pool:
        try:
            for batch in source:
                chosen = [routed for routed in batch if wanted(routed)]
                waiting.append(pool.submit(_encode_batch, encoder, batch, chosen))
                if len(waiting) > _IN_FLIGHT + _WAITING:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode_batch(
    encoder: Encoder, batch: list[Routed], chosen: list[Routed]
) -> list[tuple[Routed, np.ndarray | None]]:
    tokens = iter(encoder.encode([routed.document.text for routed in chosen]))
    remaining = iter([*chosen, None])
    following = next(remaining)
    results: list[tuple[Routed, np.ndarray | None]] = []
    for routed in batch:
        if routed is following:
            results.append((routed, next(tokens)))
            following = next(remaining)
        else:
            results.append((routed, None))
    return results


def _batches(documents: Iterable[Routed]) -> Iterator[list[Routed]]:
    batch: list[Routed] = []
    size = 0
    for routed in documents:
        batch.append(routed)
        size += routed.document.size
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
