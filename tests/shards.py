"""A folder of rows from an array of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from photon.data.prepare.writer import ShardWriter


def write_shards(
    folder: Path, tokens: np.ndarray, sequence_length: int, facts: dict, vocab_size: int = 0
) -> dict[str, Any]:
    """The folder's manifest; the vocabulary ends with the largest token if no size is given."""
    writer = ShardWriter(folder, sequence_length, vocab_size or int(tokens.max()) + 1)
    try:
        writer.append(tokens)
        return writer.finish(facts)
    finally:
        writer.close()
