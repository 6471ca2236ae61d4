"""Optional packages that a command needs."""

from __future__ import annotations

from importlib.util import find_spec

from photon.errors import ConfigError


def require_flower() -> None:
    """Raises:
    ConfigError: Flower is not installed.
    """
    if find_spec("flwr") is None:
        raise ConfigError(
            "several machines need Flower: pip install 'photon[flower]' (or flwr and cryptography)"
        )
