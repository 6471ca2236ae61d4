"""What becomes of a client that fails: the round goes on without it, or the run ends."""

from __future__ import annotations

import warnings

from photon.config.federation import Federation
from photon.errors import ConfigError, DeviceError, Interrupted, PhotonWarning, StorageError

OF_ALL = (ConfigError, DeviceError, Interrupted, StorageError)
"""Errors that are no client's: they would meet the next one as well."""


def take_down(faults: dict[int, str], fl: Federation, client: int, error: Exception) -> None:
    """Note a client's failure, if the round can do without it.

    Args:
        faults: of the round so far: client -> why it has no update.

    Raises:
        Exception: the error itself, where the quorum is out of reach and the run is to stop then
            (`fl.failed_rounds`), or where it is not this client's alone.
    """
    spare = fl.cohort_size + fl.spares - fl.needed
    if isinstance(error, OF_ALL) or (len(faults) >= spare and fl.on_failure == "stop"):
        raise error
    faults[client] = f"{type(error).__name__}: {error}"
    warnings.warn(f"client {client} has failed: {faults[client]}", PhotonWarning, stacklevel=2)
