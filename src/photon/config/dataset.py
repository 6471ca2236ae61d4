"""Keys of the data: where it comes from, how it is dealt out, in which order it is read."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator, model_validator

from photon.config.base import LONGEST, Bytes, Section
from photon.config.prepare import PrepareConfig


class EmbeddedCorpus(Section):
    """The default corpus: the source of the running Python's own standard library."""

    vocab_size: int = Field(default=2048, ge=257, description="size of the tokenizer trained on it")
    partition: Literal["iid", "source"] = Field(
        default="iid",
        description="documents at random, or whole packages (heterogeneous) to a client",
    )
    validation_fraction: float = Field(
        default=0.05, gt=0, lt=0.5, description="documents of the common validation set"
    )
    max_bytes: int = Field(default=16_000_000, ge=1, description="most text taken from the library")
    seed: int = Field(default=9176, description="address of the split's random numbers")


class StreamSpec(Section):
    """One folder of rows in a client's mixture; at most one of the three amounts."""

    local: str | None = Field(
        default=None, description="folder below root_local; null: all clients' at the root"
    )
    remote: str | None = Field(default=None, description="the same folder below root_remote")
    proportion: float | None = Field(
        default=None, gt=0, description="share of the client's rows, relative to its other streams"
    )
    repeat: float | None = Field(default=None, gt=0, description="times its rows in an epoch")
    choose: int | None = Field(default=None, ge=1, description="rows of an epoch")
    download_retry: int | None = Field(default=None, ge=0, description="null: that of the split")
    download_timeout: float | None = Field(
        default=None, gt=0, le=LONGEST, description="null: that of the split"
    )
    validate_hash: str | None = Field(default=None, description="null; hashes are in the manifest")
    keep_zip: bool | None = Field(default=None, description="null; shards are not compressed")

    @model_validator(mode="after")
    def _consistent(self) -> StreamSpec:
        amounts = [n for n in ("proportion", "repeat", "choose") if getattr(self, n) is not None]
        if len(amounts) > 1:
            raise ValueError(f"{' and '.join(amounts)} exclude each other; give one")
        if self.remote is not None and self.remote != self.local:
            raise ValueError(
                f"remote={self.remote} differs from local={self.local}; the cache mirrors the "
                "store, so they must be equal (or remote null)"
            )
        if self.local is not None and not _is_below_root(self.local):
            raise ValueError(f"local={self.local} must be a folder below root_local, without ..")
        for name in ("download_retry", "download_timeout", "validate_hash", "keep_zip"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} cannot be set for one stream; leave it null")
        return self


def _is_below_root(folder: str) -> bool:
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts


class ClientStreams(Section):
    """The mixture of one client."""

    streams: dict[str, StreamSpec] = Field(
        alias="client_streams", description="stream_0, stream_1, ..."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClientStreams:
        specs = list(self.streams.values())
        if not specs:
            raise ValueError("client_streams is empty; name a stream")
        relative = [spec.proportion is not None for spec in specs]
        if any(relative) and not all(relative):
            raise ValueError("proportion must be given for all streams of a client, or for none")
        return self


class StorageConfig(Section):
    """Where prepared data is: in a local folder, or behind one in an object store."""

    root: str | None = Field(
        default=None,
        description="prepared data folder; null: the embedded corpus, made on first use, or with "
        "root_remote a cache folder below data/",
    )
    store: str | None = Field(
        default=None,
        description="s3://bucket/prefix or file:///folder of prepared data; root_local caches it",
    )
    cache_limit: Bytes | None = Field(
        default=None, ge=1, description="most bytes of shards cached, for example 10gb; null: all"
    )
    download_retry: int = Field(default=2, ge=0, description="attempts after the first")
    download_timeout: float = Field(
        default=60.0, gt=0, le=LONGEST, description="seconds for one request, a piece of a shard"
    )
    streams: list[ClientStreams] | None = Field(
        default=None,
        description="which folders below the root each client reads; a file of them by "
        "dataset/streams@dataset.train.streams=8_clients; null: client_0, client_1, ...",
    )

    @field_validator("store")
    @classmethod
    def _in_a_store(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"(s3|file)://.", value):
            raise ValueError("give s3://BUCKET/PREFIX or file:///FOLDER, or null")
        return value

    @field_validator("streams")
    @classmethod
    def _of_some_client(cls, value: list[ClientStreams] | None) -> list[ClientStreams] | None:
        if value is not None and not value:
            raise ValueError("names no client; give an entry for each, or null: client_0, ...")
        return value


class SplitConfig(StorageConfig):
    shuffle: bool = Field(default=True, description="visit the rows in an addressed random order")
    shuffle_seed: int = Field(default=9176, description="address of that order")
    shuffle_rows: int | None = Field(
        default=None,
        ge=1,
        description="rows shuffled at a time, from whole shards in a random order; with a "
        "cache_limit, what the cache must hold at once; null: 1,048,576",
    )


class Data(Section):
    name: str = Field(default="embedded", description="name of the preset")
    embedded: EmbeddedCorpus = EmbeddedCorpus()
    prepare: PrepareConfig = PrepareConfig()
    train: SplitConfig = SplitConfig()
    validation: StorageConfig = Field(
        default=StorageConfig(),
        description="where the common validation set is; null: beside train",
    )
