"""Documents to token arrays, in their order, on all cores."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import compress

import numpy as np
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from photon.data.prepare.routing import Routed
from photon.data.tokenization import Tokenization, bare, require_text
from photon.errors import DataError

BATCH_CHARACTERS = 1 << 21
"""Text that one task of the pool tokenizes: enough for all cores, little to hold in memory."""
_IN_FLIGHT = 2
"""Batches being tokenized at once: the second fills the cores that the tail of the first leaves."""
_WAITING = 2
"""Further batches read ahead."""


class Encoder:
    """Text to token ids and back: the one way for preparing, writing, scoring and exporting.

    What a tokenizer.json does on its own (truncation, padding, a post-processor) is left out.

    Attributes:
        tokenizer: a copy without all that.
        facts: how documents are set apart, and whether text may spell a special token.
        needs_space: a word after a space is a token of its own.
    """

    def __init__(self, tokenizer: Tokenizer, facts: Tokenization) -> None:
        self.tokenizer, self.facts = bare(tokenizer), facts
        self.tokenizer.post_processor = None  # type: ignore[assignment]
        self.tokenizer.encode_special_tokens = facts.specials_are_text
        self.needs_space = len(self.ids(" a")) == 1

    @property
    def end(self) -> int:
        """Id of the token that ends a text."""
        return self.facts.end

    def documents(self, texts: list[str]) -> list[np.ndarray]:
        """Token ids of each text with what sets documents apart, uint32.

        Raises:
            DataError: text that is none.
        """
        before, after = self.facts.begin, (self.facts.end,)
        with _named(texts):
            encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array([*before, *one.ids, *after], dtype=np.uint32) for one in encodings]

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text and nothing else.

        Raises:
            DataError: text that is none.
        """
        with _named([text]):
            return self.tokenizer.encode(text, add_special_tokens=False).ids

    def opening(self, text: str) -> list[int]:
        """Token ids of text that a document begins with."""
        return [*self.facts.begin, *self.ids(text)]

    def for_prompts(self) -> Tokenizer:
        """A tokenizer whose own rules open a text as `opening` does, for other programs."""
        opening = Tokenizer.from_str(self.tokenizer.to_str())
        if self.facts.begin:
            ids = list(self.facts.begin)
            tokens = [opening.id_to_token(number) for number in ids]
            # By a name of its own: a token's may mean something else in a template, as <a:b> does.
            begin = {"id": "begin", "ids": ids, "tokens": tokens}
            opening.post_processor = TemplateProcessing(
                single=["begin", "$A"],
                special_tokens=[begin],  # pyright: ignore[reportArgumentType]
            )
        return opening

    def as_answer(self, text: str) -> str:
        """A word after a space is another token than the bare word in byte-level tokenizers."""
        return " " + text if self.needs_space and not text.startswith(" ") else text

    def text(self, ids: Sequence[int]) -> str:
        """What a model has written behind a prompt."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text if self.needs_space else " " + text


@contextmanager
def _named(texts: list[str]) -> Iterator[None]:
    """A block that tokenizes; the library's TypeError becomes a DataError that says what is wrong.

    The library says of half a surrogate pair that it is no str.
    """
    try:
        yield
    except TypeError as error:
        for text in texts:
            require_text(text, "text")
        raise DataError(f"the tokenizer does not take this text ({error})") from error


def encode_in_order(
    documents: Iterable[Routed], encoder: Encoder, wanted: Callable[[Routed], bool]
) -> Iterator[tuple[Routed, np.ndarray | None]]:
    """Documents in their order, each with its tokens, or with None if it is not wanted.

    They are made while the caller writes: the library's threads work without Python's lock.
    """
    source = iter(_batches(documents))
    waiting: deque[Future[list[tuple[Routed, np.ndarray | None]]]] = deque()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="tokenize") as pool:
        try:
            for batch in source:
                chosen = [wanted(routed) for routed in batch]
                waiting.append(pool.submit(_encode_batch, encoder, batch, chosen))
                if len(waiting) > _IN_FLIGHT + _WAITING:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _encode_batch(
    encoder: Encoder, batch: list[Routed], chosen: list[bool]
) -> list[tuple[Routed, np.ndarray | None]]:
    tokens = iter(encoder.documents([routed.document.text for routed in compress(batch, chosen)]))
    pairs = zip(batch, chosen, strict=True)
    return [(routed, next(tokens) if is_chosen else None) for routed, is_chosen in pairs]


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
