"""Every error that Photon raises on purpose, and the exit code that the command gives it.

PhotonError                    2   something the user can mend; the message says how
|-- ConfigError                2   a key or a value of the configuration
|-- DataError                  2   text, tokens, shards
|-- CheckpointError            2   a saved state
|   |-- CorruptCheckpoint      2   the bytes are not what was written
|   `-- MismatchedCheckpoint   2   a good checkpoint, but of another run, model or optimizer
|-- RunFolderError             2   the run folder is missing, taken, or in use by another process
|-- PayloadError               2   a message or a payload is not what was sent
|-- StorageError               2   the disk is full or refuses to write
|-- DeviceError                2   out of memory, device missing
|-- NonFiniteLoss              3   training diverged
|-- RoundFailed                4   fewer updates than the quorum, or a worker that keeps dying
`-- Interrupted          130/143   SIGINT or SIGTERM; everything is saved

PhotonWarning is a `UserWarning`: the run goes on.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

SEEN = "__warningregistry__"
"""Where Python keeps what a module's lines have been told."""


def install_with(extra: str) -> str:
    """How to get an optional package: by the extra that brings it."""
    return (
        f"pip install 'photon-pretraining[{extra}]', or in a checkout: pip install -e '.[{extra}]'"
    )


class PhotonError(Exception):
    """Base class: one line that names what was wrong, where, and what to do."""

    exit_code = 2


class ConfigError(PhotonError):
    """A key or value of the configuration is wrong; the message starts with the dotted key."""


class DataError(PhotonError):
    """Text, tokens or shards are missing, too few or damaged; the message names the file."""


class CheckpointError(PhotonError):
    """A saved state cannot be used."""


class CorruptCheckpoint(CheckpointError):
    """The bytes on disk are not those that were written."""


class MismatchedCheckpoint(CheckpointError):
    """A sound checkpoint that belongs to another run, model or optimizer."""


class RunFolderError(PhotonError):
    """The run folder is missing, already taken, or in use by another process."""


class PayloadError(PhotonError):
    """A message or payload between server and node is damaged, forged, or of another kind."""


class StorageError(PhotonError):
    """The disk is full or refuses to write."""


class DeviceError(PhotonError):
    """The device is missing or out of memory."""


class NonFiniteLoss(PhotonError):
    """Training diverged: the loss is not a finite number."""

    exit_code = 3


class RoundFailed(PhotonError):
    """A round closed with fewer accepted updates than the quorum."""

    exit_code = 4


class Interrupted(PhotonError):
    """SIGINT or SIGTERM arrived; the state is saved.

    Args:
        signum: the signal's number; the exit code is 128 + signum.
        message: one line for the user.
    """

    def __init__(self, signum: int, message: str = "interrupted") -> None:
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


class PhotonWarning(UserWarning):
    """Something that works but is hardly what was meant; one line that says what to do."""


class PhotonNote(PhotonWarning):
    """All is well; one line that says what becomes of something that was asked for."""


def warn(text: str, kind: type[PhotonWarning] = PhotonWarning) -> None:
    """Warn, and point to the line that called Photon: nobody can mend one of Photon's own."""
    frame = caller = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "photon":
            caller = frame.f_back or frame
        frame = frame.f_back
    module, seen = caller.f_globals.get("__name__"), caller.f_globals.setdefault(SEEN, {})
    warnings.warn_explicit(
        text, kind, caller.f_code.co_filename, caller.f_lineno, module, registry=seen
    )


@contextmanager
def storing(path: Path, failure: str = "cannot write", remedy: str = "") -> Iterator[None]:
    """A block that writes: its OSError becomes a StorageError, `PATH: FAILURE (reason)REMEDY`."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: {failure} ({error.strerror}){remedy}") from error


def require_package(name: str, extra: str, needed_by: str) -> None:
    """Raises:
    ConfigError: an optional package is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # a mere folder of that name is no package
        raise ConfigError(f"{needed_by}: {install_with(extra)}")
