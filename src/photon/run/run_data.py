"""The prepared data of a run: where it is, and who brings it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.config.dataset import Data, SplitConfig, StorageConfig, StreamSpec
from photon.config.llm import Inner
from photon.core.seeds import derive_seed
from photon.data.manifest import MANIFEST, clients_of, read_manifest, read_whole
from photon.data.read.cache import Cache
from photon.data.read.mixture import Amount, MixedRows
from photon.data.read.order import BLOCK_ROWS
from photon.data.read.remote import RemoteFolder
from photon.data.read.shards import Rows, RowSource
from photon.data.read.stream import Stream
from photon.data.read.verify import require_part, require_tokenizer
from photon.errors import ConfigError, DataError

VALIDATION = "validation"
"""Folder of the common validation set."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The prepared data of a run, once it is found: what its model reads.

    Attributes:
        row_length: of the model, in tokens; vocabulary: tokens that it knows.
        seed: of the run.
    """

    data: Data
    row_length: int
    vocabulary: int
    seed: int

    @classmethod
    def of(cls, data: Data, inner: Inner, seed: int) -> RunData:
        return cls(data, inner.row_length, inner.model.vocab_size, seed)

    @property
    def root(self) -> Path:
        """Folder with the manifest and the tokenizer."""
        return homes(self.data.train)[0]

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.json"

    def rows(self, part: str) -> RowSource:
        """Rows of a part of the data, `validation` or `client_3/train`, of the model's length.

        Where streams are configured, a client's rows are its mixture, and the validation set is
        that of all the streams of `dataset.val`.

        Raises:
            DataError: its data is missing or made with another tokenizer, its rows cannot be cut to
                that length, or the store that holds it does not answer.
            ConfigError: the cache is smaller than what one block of the shuffle reads, or no
                streams are given for the client.
        """
        storage = self._storage(part)
        specs = _specs(storage, part)
        if specs is None:
            rows = self._open(storage, part)
        else:
            split = part.split("/")[-1]
            folders = [(f, spec) for spec in specs for f in _folders(storage, spec)]
            parts = [self._open(storage, f"{folder}/{split}") for folder, _ in folders]
            amounts = [Amount(s.proportion, s.repeat, s.choose) for _, s in folders]
            rows = MixedRows(parts, amounts, derive_seed(self.seed, f"mixture:{part}"))
        if part.endswith("/train"):
            _require_room(self.data.train, rows)
        return rows

    def client_rows(self, client: int) -> RowSource:
        """A client's training rows, as `rows`."""
        return self.rows(f"client_{client}/train")

    def own_validation(self, client: int) -> RowSource:
        """A client's held-out rows, as `rows`."""
        return self.rows(f"client_{client}/{VALIDATION}")

    def stream(self, client: int) -> Stream:
        """A client's training rows in their addressed order, as `rows`."""
        split = self.data.train
        seed = split.shuffle_seed if split.shuffle else None
        rows = self.client_rows(client)
        return Stream(rows, seed=seed, client=client, block_rows=split.shuffle_rows)

    def _storage(self, part: str) -> StorageConfig:
        """Where a part is: the common validation set may lie somewhere of its own."""
        train, validation = self.data.train, self.data.validation
        if part != VALIDATION:
            return train
        if validation.root or validation.store:
            return validation
        return train.but(streams=validation.streams)

    def _open(self, storage: StorageConfig, part: str) -> Rows:
        root = _root_of(storage)
        rows = Rows(root / part, cache_of(storage, root), self.row_length, self.vocabulary)
        require_tokenizer(rows.folder, rows.manifest, read_whole(self.root)["tokenizer"])
        home = rows.folder.parent if part == VALIDATION else rows.folder.parent.parent
        if (home / MANIFEST).exists():
            require_part(home, read_manifest(home), rows.folder, rows.manifest)
        return rows


def homes(storage: StorageConfig) -> list[Path]:
    """The prepared data sets that a storage's streams name, or its root."""
    root = _root_of(storage)
    specs = [s for client in storage.streams or () for s in client.streams.values()]
    return list(dict.fromkeys(_home(root, spec) for spec in specs)) or [root]


def _root_of(storage: StorageConfig) -> Path:
    assert storage.root is not None  # it is found
    return Path(storage.root)


def _home(root: Path, spec: StreamSpec) -> Path:
    return root if spec.local is None else (root / spec.local).parent


def find_data(storage: StorageConfig, num_clients: int) -> tuple[Path, dict[str, Any]]:
    """The local root of prepared data, or of its cache, and the manifest of the whole.

    Without streams the root may also be the folder above `c8/en`, for eight clients, if there is
    only one such data set. Of several data sets the first one's manifest with a digest of all.

    Raises:
        DataError: nothing there, several data sets, or the store does not answer.
    """
    if storage.root is not None:
        root = Path(storage.root).resolve()
        if storage.streams is None and storage.store is None:
            root = _descend(root, num_clients)
    else:
        assert storage.store is not None
        address = hashlib.sha256(storage.store.encode()).hexdigest()[:12]
        root = Path("data").resolve() / f"cache-{address}"
    found = homes(storage.but(root=str(root)))
    if cache := cache_of(storage, root):
        cache.open()
        for home in found:
            cache.bring(home / MANIFEST)
            cache.bring(home / "tokenizer.json")
    manifests = [read_whole(home) for home in found]
    digests = [manifest["digest"] for manifest in manifests]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode())
    digest = digest if isinstance(digest, str) else digest.hexdigest()[:16]
    return root, {**manifests[0], "digest": digest}


def _descend(root: Path, num_clients: int) -> Path:
    """The data set below the root of a tree of them, or the root."""
    if (root / MANIFEST).exists():
        return root
    above = root if root.name == f"c{num_clients}" else root / f"c{num_clients}"
    found = sorted(path.parent for path in above.glob(f"*/{MANIFEST}"))
    if len(found) > 1:
        raise DataError(
            f"{root}: holds several data sets ({', '.join(str(p) for p in found)}); name one, or "
            "streams of several"
        )
    return found[0] if found else root


def cache_of(storage: StorageConfig, root: Path) -> Cache | None:
    """Who brings the files to a local folder; None if they are there."""
    if storage.store is None:
        return None
    remote = RemoteFolder(
        storage.store, retry=storage.download_retry, timeout=storage.download_timeout
    )
    return Cache(remote, root, storage.cache_limit)


def _specs(storage: StorageConfig, part: str) -> list[StreamSpec] | None:
    """The streams behind a part; None where no streams are configured."""
    if storage.streams is None:
        return None
    if part == VALIDATION:
        return [s for client in storage.streams for s in client.streams.values()]
    client = int(part.split("/")[0].removeprefix("client_"))
    if client >= len(storage.streams):
        raise ConfigError(
            f"dataset.train.streams: describes {len(storage.streams)} clients, but there is a "
            f"client {client}; set fl.n_total_clients={len(storage.streams)} or take other streams"
        )
    return list(storage.streams[client].streams.values())


def _folders(storage: StorageConfig, spec: StreamSpec) -> list[str]:
    if spec.local is not None:
        return [spec.local.strip("/")]
    clients = clients_of(read_whole(_root_of(storage)))
    return [f"client_{client}" for client in clients]


def _require_room(train: SplitConfig, rows: RowSource) -> None:
    """A block of the shuffle reads its shards again and again: they must fit together."""
    if train.store is None or train.cache_limit is None or not train.shuffle:
        return
    block = min(train.shuffle_rows or BLOCK_ROWS, len(rows))
    row_bytes = sum(shard["bytes"] for shard in rows.manifest["shards"]) / len(rows)
    if block * row_bytes > train.cache_limit:
        raise ConfigError(
            f"dataset.train.cache_limit={train.cache_limit} holds "
            f"{int(train.cache_limit / row_bytes)} rows of {rows.folder}, fewer than the {block} "
            "that are shuffled together; raise it or lower dataset.train.shuffle_block_size"
        )
