"""Photon: federated pre-training of language models.

Importing this package is light: PyTorch is loaded when a name below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from photon.api import resume, train
    from photon.config import Config, load_config
    from photon.errors import PhotonError
    from photon.run.results import TrainResult

__version__ = "0.1.0"

__all__ = ["Config", "PhotonError", "TrainResult", "load_config", "resume", "train"]

_HOME = {
    "Config": "photon.config",
    "PhotonError": "photon.errors",
    "TrainResult": "photon.run.results",
    "load_config": "photon.config",
    "resume": "photon.api",
    "train": "photon.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'photon' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
