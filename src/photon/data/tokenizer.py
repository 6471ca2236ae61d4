"""Byte-level BPE, trained and run by the `tokenizers` library."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from photon.data.hub_access import hub_file
from photon.data.paths import named_path
from photon.errors import DataError
from photon.files import sync

SEPARATOR = "<|endoftext|>"
"""The token between documents, of tokenizers trained here."""
SEPARATORS = (SEPARATOR, "<|end_of_text|>", "</s>", "<eos>")
"""What other tokenizers call it."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer: every text has an encoding, and decoding gives it back.

    Raises:
        DataError: the text is too small for the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataError(
            f"the text yields a vocabulary of {tokenizer.get_vocab_size()} tokens, fewer than "
            f"vocab_size={vocab_size}; ask for fewer (--train-tokenizer vocab_size=N) or give more "
            "text"
        )
    return tokenizer


def tokenizer_file(path: Path) -> Path:
    """The `tokenizer.json` of a folder; any other path is the file itself."""
    return path / "tokenizer.json" if path.is_dir() else path


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        DataError: it is missing or no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"{path}: cannot read the tokenizer ({error}); put it back from a copy: prepared data "
            "and the runs that were trained on it have the same one"
        ) from error


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `tokenizer.json` durably."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(tokenizer.to_str(pretty=True))
        sync(file)


def tokenizer_digest(path: Path) -> str:
    """Hex digest of a tokenizer file; shards and runs name the tokenizer by it.

    Raises:
        DataError: it is missing or unreadable.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot read the tokenizer ({error.strerror})") from error


def separator_id(tokenizer: Tokenizer, text: str | None = None) -> int:
    """Id of the token between documents.

    Args:
        text: the token; the first of `SEPARATORS` that the tokenizer has if not given.

    Raises:
        DataError: the tokenizer has none.
    """
    wanted = (text,) if text is not None else SEPARATORS
    for token in wanted:
        if (number := tokenizer.token_to_id(token)) is not None:
            return number
    hint = "" if text else "; name the one between documents, dataset.prepare.eos_text=TOKEN"
    raise DataError(f"the tokenizer has no token {' or '.join(wanted)}{hint}")


def vocab_size(tokenizer: Tokenizer) -> int:
    """One more than the largest token id; ids may have holes."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def open_tokenizer(name: str) -> Tokenizer:
    """A tokenizer by its file, its folder, or its name on the Hugging Face hub.

    Raises:
        DataError: it is missing, no tokenizer, or the hub cannot be reached.
    """
    path = tokenizer_file(named_path(name))
    if path.is_file():
        return load_tokenizer(path)
    if path.suffix == ".json" or name.startswith((".", "/", "~")):
        raise DataError(
            f"{path}: no such tokenizer; name a tokenizer.json, or train one with --train-tokenizer"
        )
    try:
        path = hub_file(name, "tokenizer.json")
    except DataError as error:
        raise DataError(
            f"tokenizer {name!r}: no such file or folder, and the Hugging Face hub does not give "
            f"it ({error}); name a tokenizer.json or train one with --train-tokenizer"
        ) from error
    return load_tokenizer(path)
