"""The prepared data of a run: where it is, and who brings it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from photon.config.dataset import StorageConfig
from photon.config.schema import Config
from photon.data.cache import Cache
from photon.data.manifest import read_manifest
from photon.data.order import BLOCK_ROWS
from photon.data.remote import RemoteFolder
from photon.data.shards import Rows
from photon.data.verify import require_tokenizer
from photon.errors import ConfigError

VALIDATION = "validation"
"""Folder of the common validation set."""


def data_root(config: Config) -> Path:
    """Folder of the prepared data of a resolved configuration."""
    assert config.dataset.train.root_local is not None
    return Path(config.dataset.train.root_local)


def find_data(storage: StorageConfig) -> tuple[Path, dict[str, Any]]:
    """The local folder of prepared data, or of its cache, and the manifest of the whole.

    Raises:
        DataError: nothing there, or the store does not answer.
    """
    if storage.root_local is not None:
        root = Path(storage.root_local).resolve()
    else:
        assert storage.root_remote is not None
        address = hashlib.sha256(storage.root_remote.encode()).hexdigest()[:12]
        root = Path("data").resolve() / f"cache-{address}"
    if cache := cache_of(storage, root):
        cache.open()
        cache.bring(root / "tokenizer.json")
    return root, read_manifest(root)


def storage_of(config: Config, part: str) -> StorageConfig:
    """Where a part of the data is: the common validation set may lie somewhere of its own."""
    val = config.dataset.val
    own = part == VALIDATION and (val.root_local or val.root_remote)
    return val if own else config.dataset.train


def cache_of(storage: StorageConfig, root: Path) -> Cache | None:
    """Who brings the files to a local folder; None if they are there."""
    if storage.root_remote is None:
        return None
    remote = RemoteFolder(
        storage.root_remote, retry=storage.download_retry, timeout=storage.download_timeout
    )
    return Cache(remote, root, storage.cache_limit)


def open_rows(config: Config, part: str) -> Rows:
    """Rows of a part of the data: `validation`, `client_3/train`.

    Raises:
        DataError: its data is missing or made with another tokenizer, or the store that holds it
            does not answer.
        ConfigError: the cache is smaller than what one block of the shuffle reads.
    """
    storage = storage_of(config, part)
    assert storage.root_local is not None
    root = Path(storage.root_local)
    rows = Rows(root / part, cache_of(storage, root))
    require_tokenizer(rows.folder, rows.manifest, read_manifest(data_root(config))["tokenizer"])
    if part.endswith("/train"):
        _require_room(config, rows)
    return rows


def _require_room(config: Config, rows: Rows) -> None:
    """A block of the shuffle reads its shards again and again: they must fit together."""
    train = config.dataset.train
    if train.root_remote is None or train.cache_limit is None or not train.shuffle:
        return
    block = min(train.shuffle_block_size or BLOCK_ROWS, rows.num_rows)
    row_bytes = rows.manifest["shards"][0]["bytes"] / rows.manifest["shards"][0]["rows"]
    if block * row_bytes > train.cache_limit:
        raise ConfigError(
            f"dataset.train.cache_limit={train.cache_limit} holds "
            f"{int(train.cache_limit / row_bytes)} rows of {rows.folder}, fewer than the {block} "
            "that are shuffled together; raise it or lower dataset.train.shuffle_block_size"
        )
