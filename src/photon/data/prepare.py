"""Text -> tokens -> shards per client, in one pass.

<root>/manifest.json                        what was prepared, written last
<root>/tokenizer.json
<root>/validation/                          common validation set
<root>/client_0/{train,validation}/ ...     each client's own rows, and its held-out part
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from photon.config.dataset import EmbeddedCorpus
from photon.data.corpus import Document, standard_library
from photon.data.partition import Partition, partition_documents
from photon.data.shards import FORMAT, MANIFEST, read_manifest, write_json, write_shards
from photon.data.tokenizer import separator_id, tokenizer_digest, train_tokenizer
from photon.errors import DataError, StorageError


def embedded_settings(
    corpus: EmbeddedCorpus, num_clients: int, sequence_length: int
) -> dict[str, Any]:
    """What decides the bytes of an embedded data set; equal settings, equal data."""
    return {
        "corpus": f"standard library of Python {platform.python_version()}",
        "num_clients": num_clients,
        "sequence_length": sequence_length,
        **corpus.model_dump(),
    }


def prepare_embedded(
    root: Path,
    corpus: EmbeddedCorpus,
    num_clients: int,
    sequence_length: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Prepare the standard library for a federation; do nothing if it is there already.

    The folder appears whole or not at all: it is made beside its place and renamed.

    Returns:
        The manifest of the whole data set.

    Raises:
        DataError: the folder holds other data, or the corpus is too small.
        StorageError: the disk is full; nothing is left behind.
    """
    settings = embedded_settings(corpus, num_clients, sequence_length)
    if (root / MANIFEST).exists():
        return _same_or_refuse(root, settings)
    documents = standard_library(corpus.max_bytes)
    say(f"corpus      {len(documents)} modules of the Python standard library")
    partition = partition_documents(
        documents,
        num_clients,
        by=corpus.partition,
        validation_fraction=corpus.validation_fraction,
        seed=corpus.seed,
    )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: is not empty and holds no prepared data; name another folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as work:
            unfinished = Path(work) / root.name
            unfinished.mkdir()
            manifest = _write(unfinished, documents, partition, settings, say)
            os.rename(unfinished, root)
    except OSError as error:
        raise StorageError(f"{root}: cannot write prepared data ({error.strerror})") from error
    say(f"prepared    {manifest['train_tokens']:,} training tokens for {num_clients} clients")
    return manifest


def _same_or_refuse(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    manifest = read_manifest(root)
    for key, value in settings.items():
        if manifest["settings"].get(key) != value:
            raise DataError(
                f"{root}: holds data prepared with {key}={manifest['settings'].get(key)}, asked "
                f"for {key}={value}; name another folder or remove this one"
            )
    return manifest


def _write(
    root: Path,
    documents: Sequence[Document],
    partition: Partition,
    settings: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    held_back = set(partition.validation).union(*partition.held_out)
    visible = [d.text for i, d in enumerate(documents) if i not in held_back]
    tokenizer = train_tokenizer(visible, settings["vocab_size"])
    tokenizer.save(str(root / "tokenizer.json"))
    digest = tokenizer_digest(root / "tokenizer.json")
    say(f"tokenizer   byte-level BPE, {tokenizer.get_vocab_size()} tokens")
    encoded = _encode(tokenizer, documents)
    length, vocab = settings["sequence_length"], tokenizer.get_vocab_size()

    def write(name: str, indices: Sequence[int]) -> dict[str, Any]:
        facts = _facts(documents, indices, encoded, vocab)
        tokens = np.concatenate([encoded[i] for i in indices])
        return write_shards(root / name, tokens, length, {"tokenizer": digest, **facts})

    parts = {"validation": write("validation", partition.validation)}
    for client, (train, held_out) in enumerate(
        zip(partition.train, partition.held_out, strict=True)
    ):
        parts[f"client_{client}/train"] = write(f"client_{client}/train", train)
        parts[f"client_{client}/validation"] = write(f"client_{client}/validation", held_out)
    manifest = {
        "format": FORMAT,
        "settings": settings,
        "tokenizer": digest,
        "train_tokens": sum(m["tokens"] for n, m in parts.items() if n.endswith("/train")),
        "digest": _digest(parts),
    }
    write_json(root / MANIFEST, manifest)
    return manifest


def _encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[np.ndarray]:
    """Token ids of each document with exactly one separator behind it."""
    end = separator_id(tokenizer)
    encodings = tokenizer.encode_batch_fast([document.text for document in documents])
    return [np.array([*encoding.ids, end], dtype=np.uint32) for encoding in encodings]


def _facts(
    documents: Sequence[Document], indices: Sequence[int], encoded: list[np.ndarray], vocab: int
) -> dict[str, Any]:
    counts = sum(np.bincount(encoded[i], minlength=vocab) for i in indices)
    return {
        "documents": len(indices),
        "sources": sorted({documents[i].source for i in indices}),
        "text_bytes": sum(len(documents[i].text.encode()) for i in indices),
        "text_tokens": int(sum(len(encoded[i]) for i in indices)),
        "unigram": np.asarray(counts).tolist(),
    }


def _digest(parts: dict[str, dict[str, Any]]) -> str:
    hashes = [shard["sha256"] for name in sorted(parts) for shard in parts[name]["shards"]]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
