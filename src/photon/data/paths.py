"""Paths as people name them."""

from __future__ import annotations

from pathlib import Path

from photon.errors import DataError


def named_path(name: str) -> Path:
    """A path in which ~ is a home folder.

    Raises:
        DataError: of nobody here.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        user = name.split("/")[0]
        raise DataError(f"{name}: {user} is no home folder here; write the path out") from error
