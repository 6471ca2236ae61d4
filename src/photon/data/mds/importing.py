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
from photon.data.tokenizer import load_tokenizer, tokenizer_digest, tokenizer_file, vocab_size
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
    for number, folder in clients.items():
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
    if source not in clients.values() and (source / "validation" / INDEX).exists():
        parts["validation"] = (_whole(source / "validation"),)
    else:
        own = [parts[f"client_{number}/validation"] for number in clients]
        parts["validation"] = tuple(itertools.chain.from_iterable(own))
    return parts


def _clients(source: Path) -> dict[int, Path]:
    """The clients' folders by number, in order; the source itself is client 0 if it has none.

    Raises:
        DataError: numbers with holes, of which no data set can be made, or one that is there twice.
    """
    numbered = sorted(
        (int(match[1]), path)
        for path in (source.iterdir() if source.is_dir() else [])
        if (match := re.fullmatch(r"client_(\d+)", path.name, re.ASCII))
    )
    for (before, path), (number, following) in itertools.pairwise(numbered):
        if number != before + 1:
            raise DataError(
                f"{source}: after {path.name} comes {following.name}; clients are numbered one "
                "after another: rename the folders so, or import those of each piece by themselves"
            )
    return dict(numbered) or {0: source}


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
    shard, opening = next(first.read())
    if not (length := len(opening)):
        raise DataError(f"{shard.path}: a sample of 0 tokens; rows need at least one")
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
        "settings": {**_settings(parts, source, length), "vocab_size": len(lengths)},
        "tokenizer": digest,
        KEY: of_occurrence(vocabulary, dict(enumerate(counts.tolist()))).as_json(),
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def _settings(parts: Iterable[str], source: str, length: int) -> dict[str, Any]:
    numbers = (re.fullmatch(r"client_(\d+)/train", name) for name in parts)
    clients = [int(match[1]) for match in numbers if match]
    return {
        "corpus": f"MDS data of {source}",
        "num_clients": len(clients),
        **({"first_client": clients[0]} if clients[0] else {}),
        "sequence_length": length,
    }


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
            tokens = tokens.astype(np.int64)  # no integer holds what several shards may have
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
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocab_size:
        raise DataError(
            f"{shard.path}: token {least if least < 0 else most} is not in the tokenizer's "
            f"vocabulary of {vocab_size}; name the tokenizer that the data was made with"
        )


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text behind each token id, [V], int64; 0 for special tokens.

    Exact for byte-level vocabularies, whose tokens are written with one character per byte. Others
    are decoded behind themselves: alone a token would lose the space that it begins with, which is
    too many by one byte a document where a tokenizer puts a space before the first word.
    """
    kinds = _decoders(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    sizes = np.zeros(vocab_size(tokenizer), dtype=np.int64)
    for number in range(len(sizes)):
        token = tokenizer.id_to_token(number) or ""
        if number in added:
            sizes[number] = 0 if added[number].special else len(token.encode())
        elif "ByteLevel" in kinds:
            sizes[number] = len(token)
        elif "ByteFallback" in kinds and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            sizes[number] = 1
        else:
            alone, twice = tokenizer.decode([number]), tokenizer.decode([number, number])
            sizes[number] = len(twice.encode()) - len(alone.encode())
    return sizes


def _decoders(tokenizer: Tokenizer) -> set[str]:
    """Kinds of the steps by which tokens become text."""
    decoder = json.loads(tokenizer.to_str()).get("decoder") or {}
    return {str(step.get("type")) for step in (decoder, *decoder.get("decoders", ()))}
