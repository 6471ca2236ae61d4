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
            "several machines need Flower: pip install 'photon-pretraining[flower]' (or flwr and "
            "cryptography)"
        )


def require_plotly() -> str:
    """Source of plotly.js.

    Raises:
        ConfigError: Plotly is not installed.
    """
    if find_spec("plotly") is None:
        raise ConfigError("photon report needs Plotly: pip install 'photon-pretraining[report]'")
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
