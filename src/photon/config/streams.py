"""Stream files: which folders of rows each client reads, and how much of each.

The format is the original's: a list whose element i describes client i.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import Field, model_validator

from photon.config.base import Section


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
    download_retry: int | None = Field(default=None, description="null: that of the split")
    download_timeout: float | None = Field(default=None, description="null: that of the split")
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
