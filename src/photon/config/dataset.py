"""Keys of the data: where it comes from, how it is dealt out, in which order it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from photon.config.base import Bytes, Section
from photon.config.prepare import PrepareConfig
from photon.config.streams import ClientStreams


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


class StorageConfig(Section):
    """Where prepared data is: in a local folder, or behind one in an object store."""

    root: str | None = Field(
        alias="root_local",
        default=None,
        description="prepared data folder; null: the embedded corpus, made on first use, or with "
        "root_remote a cache folder below data/",
    )
    store: str | None = Field(
        alias="root_remote",
        default=None,
        description="s3://bucket/prefix or file:///folder of prepared data; root_local caches it",
    )
    cache_limit: Bytes | None = Field(
        default=None, ge=1, description="most bytes of shards cached, for example 10gb; null: all"
    )
    download_retry: int = Field(default=2, ge=0, description="attempts after the first")
    download_timeout: float = Field(
        default=60.0, gt=0, description="seconds for one request, a piece of a shard"
    )
    streams: list[ClientStreams] | None = Field(
        default=None,
        description="which folders below the root each client reads; a file of them by "
        "dataset/streams@dataset.train.streams=8_clients; null: client_0, client_1, ...",
    )


class SplitConfig(StorageConfig):
    shuffle: bool = Field(default=True, description="visit the rows in an addressed random order")
    shuffle_seed: int = Field(default=9176, description="address of that order")
    shuffle_rows: int | None = Field(
        alias="shuffle_block_size",
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
        alias="val",
        default=StorageConfig(),
        description="where the common validation set is; null: beside train",
    )
