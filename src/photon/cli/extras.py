"""Optional packages that a command needs."""

from __future__ import annotations

from importlib.util import find_spec

from photon.errors import ConfigError, install_with


def require_flower() -> None:
    """Raises:
    ConfigError: Flower is not installed.
    """
    if find_spec("flwr") is None:
        raise ConfigError(f"several machines need Flower: {install_with('flower')}")


def require_plotly() -> str:
    """Source of plotly.js.

    Raises:
        ConfigError: Plotly is not installed.
    """
    if find_spec("plotly") is None:
        raise ConfigError(f"photon report needs Plotly: {install_with('report')}")
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()
