"""The one hash of all that is large: BLAKE3, in blocks that are hashed side by side."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from blake3 import blake3

HASH = blake3
BLOCK_BYTES = 8 << 20
HASHERS = max(2, min(16, os.cpu_count() or 1))
"""Blocks that are hashed at a time, and so are in memory."""
Sink = Callable[[memoryview], object]
"""Takes bytes, a piece at a time."""


def hash_blocks(header: bytes, blocks: Iterable[list[memoryview]], sink: Sink = len) -> list[bytes]:
    """Hashes of a header and of each block behind it.

    Args:
        blocks: each as pieces that follow one another.
        sink: takes the bytes of all; a block is hashed while it and the next ones are put away.
    """
    sink(memoryview(header))
    hashes, pending = [HASH(header).digest()], deque()
    with ThreadPoolExecutor(HASHERS) as pool:
        for block in blocks:
            pending.append(pool.submit(_hash_pieces, block))
            for piece in block:
                sink(piece)
            if len(pending) > HASHERS:  # a block is memory until it is hashed
                hashes.append(pending.popleft().result())
        return [*hashes, *(future.result() for future in pending)]


def _hash_pieces(pieces: list[memoryview]) -> bytes:
    state = HASH()
    for piece in pieces:
        state.update(piece)
    return state.digest()
