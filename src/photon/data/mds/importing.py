"""Data prepared for the original Photon, made into ours: MDS samples -> rows.

The original cuts a client's token stream into samples of n tokens and predicts n - 1 of them, since
the last has no successor inside its sample. Here a row is n inputs and n targets: sample i and the
first token of sample i + 1, which is what follows it in the stream. So R samples give R rows of the
same inputs, R targets that the original does not use come back, and the stream is closed with
one more token, the one that it began with (the separator, in the original's data), to be the target
of the last input. Nothing is left out.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from photon.data.manifest import MANIFEST, sum_of_parts, write_json
from photon.data.mds.format import INDEX, MdsShard, read_index, read_samples
from photon.data.prepare.writer import ShardWriter
from photon.data.tokenization import KEY, of_occurrence
from photon.data.tokenizer import load_tokenizer, tokenizer_digest, tokenizer_file
from photon.errors import DataError, storing
from photon.say import Say


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples [first, last) of an MDS folder."""

    shards: tuple[MdsShard, ...]
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def read(self) -> Iterator[tuple[MdsShard, np.ndarray]]:
        """Each sample and the shard that it comes from; other shards are not opened."""
        start = 0
        for shard in self.shards:
            end = start + shard.samples
            if start < self.last and end > self.first:
                window = max(0, self.first - start), min(shard.samples, self.last - start)
                for tokens in itertools.islice(read_samples(shard), *window):
                    yield shard, tokens
            start = end


def import_mds(
    source: Path,
    out: Path,
    tokenizer: Path,
    *,
    held_out: float = 0.05,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Convert an MDS tree or a single MDS folder; gives the manifest of the data set.

    Args:
        source: `client_*/{train,validation}`, `{train,validation}`, or one folder with an index.
        out: folder to make; it appears whole or not at all.
        tokenizer: the `tokenizer.json` that the tokens were made with, or a folder with one.
        held_out: share of a client's samples, its last ones, that become its validation part where
            the source has none.

    Raises:
        DataError: no MDS data, a damaged shard, samples of several lengths, tokens outside the
            tokenizer's vocabulary, or `out` is taken.
        StorageError: the disk is full; nothing is left behind.
    """
    parts = _parts(source, held_out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is not empty; name another folder")
    file = tokenizer_file(tokenizer)
    vocabulary = load_tokenizer(file)
    with storing(out, "cannot write prepared data"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
            unfinished = Path(work) / out.name
            unfinished.mkdir()
            shutil.copyfile(file, unfinished / "tokenizer.json")
            manifest = _convert(unfinished, parts, vocabulary, str(source.resolve()), say)
            (unfinished / ".gitignore").write_text("*\n", encoding="utf-8")
            os.replace(unfinished, out)
    return manifest


def _parts(source: Path, held_out: float) -> dict[str, tuple[Samples, ...]]:
    """What goes where: name of a part -> samples, in order."""
    parts: dict[str, tuple[Samples, ...]] = {}
    clients = _clients(source)
    for number, folder in enumerate(clients):
        train = _whole(folder if (folder / INDEX).exists() else folder / "train")
        if (folder / "validation" / INDEX).exists():
            validation = _whole(folder / "validation")
        else:
            cut = len(train) - max(1, round(held_out * len(train)))
            validation = Samples(train.shards, cut, len(train))
            train = Samples(train.shards, 0, cut)
        if not len(train) or not len(validation):
            raise DataError(f"{folder}: too few samples for a training and a validation part")
        parts[f"client_{number}/train"] = (train,)
        parts[f"client_{number}/validation"] = (validation,)
    if clients != [source] and (source / "validation" / INDEX).exists():
        parts["validation"] = (_whole(source / "validation"),)
    else:
        own = [parts[f"client_{number}/validation"] for number in range(len(clients))]
        parts["validation"] = tuple(itertools.chain.from_iterable(own))
    return parts


def _clients(source: Path) -> list[Path]:
    """The clients' folders by number; the source itself if it has none."""
    numbered = [
        (int(match[1]), path)
        for path in (source.iterdir() if source.is_dir() else [])
        if (match := re.fullmatch(r"client_(\d+)", path.name))
    ]
    return [path for _, path in sorted(numbered)] or [source]


def _whole(folder: Path) -> Samples:
    shards = tuple(read_index(folder))
    return Samples(shards, 0, sum(shard.samples for shard in shards))


def _convert(
    root: Path,
    parts: Mapping[str, tuple[Samples, ...]],
    vocabulary: Tokenizer,
    source: str,
    say: Say,
) -> dict[str, Any]:
    digest = tokenizer_digest(root / "tokenizer.json")
    first = next(iter(parts.values()))[0]
    length = len(next(first.read())[1])
    lengths = token_bytes(vocabulary)
    made: dict[str, dict[str, Any]] = {}
    for name, samples in parts.items():
        made[name] = _write(root / name, samples, length, lengths, {"tokenizer": digest})
        say(
            f"{name:<22}{made[name]['samples']:,} samples of {length} tokens -> "
            f"{made[name]['rows']:,} rows, 1 token added, 0 left out"
        )
    counts = np.sum([part["unigram"] for part in made.values()], axis=0)
    manifest = {
        **sum_of_parts(made),
        "settings": {
            "corpus": f"MDS data of {source}",
            "num_clients": sum(name.endswith("/train") for name in made),
            "sequence_length": length,
            "vocab_size": len(lengths),
        },
        "tokenizer": digest,
        KEY: of_occurrence(vocabulary, dict(enumerate(counts.tolist()))).as_json(),
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def _write(
    folder: Path,
    parts: Iterable[Samples],
    length: int,
    token_lengths: np.ndarray,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """One part: its samples one after another and the closing token."""
    writer = ShardWriter(folder, length, len(token_lengths))
    count, opening = 0, np.empty(0, dtype=np.int64)
    try:
        for shard, tokens in itertools.chain.from_iterable(part.read() for part in parts):
            _require_tokens(shard, tokens, length, len(token_lengths))
            opening = tokens[:1] if not count else opening
            writer.append(tokens)
            count += 1
        writer.append(opening)
        writer.position()  # all is counted
        text_bytes = int(writer.unigram @ token_lengths)
        return writer.finish({"samples": count, "text_bytes": text_bytes, **facts})
    finally:
        writer.close()


def _require_tokens(shard: MdsShard, tokens: np.ndarray, length: int, vocab_size: int) -> None:
    if len(tokens) != length:
        raise DataError(
            f"{shard.path}: a sample of {len(tokens)} tokens among samples of {length}; rows need "
            "one length"
        )
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise DataError(
            f"{shard.path}: token {int(tokens.max())} is not in the tokenizer's vocabulary of "
            f"{vocab_size}; name the tokenizer that the data was made with"
        )


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text behind each token id, [V], int64; 0 for special tokens.

    Exact for byte-level vocabularies, whose tokens are written with one character per byte; others
    are decoded one by one.
    """
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    added = tokenizer.get_added_tokens_decoder()
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for number in range(len(sizes)):
        if number in added:
            text = "" if added[number].special else added[number].content
            sizes[number] = len(text.encode())
        elif decoder.get("type") == "ByteLevel":
            sizes[number] = len(tokenizer.id_to_token(number) or "")
        else:
            sizes[number] = len(tokenizer.decode([number]).encode())
    return sizes
