"""Keys of `fl.compression`: what is sent for what, and what becomes of what that loses."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from photon.config.base import Section
from photon.errors import ConfigError
from photon.points import CODECS, codec, codec_parts, shortest, spelled

_NAMES = list(CODECS)
WHOLE = "fp32"
"""The download that is no difference: parameters as they are."""


CODEC_KEYS = tuple(f"fl.compression.{what}" for what in ("upload", "download", "moments"))


class Compression(Section):
    """What travels, and how: NAME of a codec, or NAME:NUMBER/NUMBER with its arguments.

    A name alone, `fl.compression=NAME`, is that of uploads and moments; and of downloads, unless it
    is one of 16 bits or more: parameters then come whole.
    """

    upload: str = Field(
        default="int4", description="codec of pseudo-gradients, with feedback", examples=_NAMES
    )
    download: str = Field(
        default="int4",
        description="codec of the difference between the server's parameters and what clients "
        "hold, with feedback; fp32: the parameters whole, in every round, or with fl.fragments "
        "their differences as they are",
        examples=_NAMES,
    )
    moments: str = Field(
        default="int8",
        description="codec of averaged inner moments, both ways; where there is one, its form for "
        "squares is that of second moments",
        examples=_NAMES,
    )
    residual_decay: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="what a client keeps from round to round of what its codec has lost, so that "
        "it is forgotten while the client is away; 0: no feedback",
    )

    @field_validator("upload", "download", "moments")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        return shortest(codec_parts(value), CODECS)  # one codec has one name, also on a resume

    @property
    def sends_differences(self) -> bool:
        """Whether clients get differences, in place of whole parameters."""
        return self.download != WHOLE


def codec_of(key: str, text: str) -> Any:
    """The `photon.core.codec.Codec` that a key names.

    Raises:
        ConfigError: numbers that it cannot do with.
    """
    try:
        return codec(text)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def rounds_only(name: str) -> bool:
    """Whether a codec is one of 16 bits or more, which loses nothing that is fed back."""
    alone = name.partition(":")[0]
    known = CODECS.get(alone)
    if known is None:
        return True
    if known.bits is None:  # only what is itself imported tells of a codec of one's own
        return codec(alone).cast is not None
    return known.bits >= 16


def _in_full(value: Any) -> Any:
    """Read the name of a codec alone."""
    if not isinstance(value, str):
        return value
    return {"upload": value, "moments": value, "download": _download(value)}


def _download(name: str) -> str:
    return WHOLE if rounds_only(name) else name


CompressionOrName = Annotated[Compression, BeforeValidator(_in_full)]


def ladder() -> list[str]:
    """A line for each codec: how it is named with its arguments, bits, what it does."""
    return [
        f"    {spelled(name, rung.arguments):<16} {_size(rung.bits)} bits  {rung.about}"
        for name, rung in CODECS.items()
    ]


def _size(bits: float | None) -> str:
    return f"{'?':>5}" if bits is None else f"{bits:>5.2f}"


def spelled_out(text: str) -> list[str]:
    """Read `fl.compression=NAME`, an override, as one of each key that it stands for."""
    key, _, value = text.partition("=")
    if key.lstrip("+") != "fl.compression" or not value or value.startswith("{"):
        return [text]
    section, name = key.lstrip("+"), value.strip("\"'")
    try:
        codec_parts(name)
    except ValueError as error:  # said of the key that was written
        raise ConfigError(f"{section}: {error}") from None
    return [f"{section}.{below}={one}" for below, one in _in_full(name).items()]
