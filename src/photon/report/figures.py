"""Plots as PNG files in a run folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from photon.errors import PhotonNote, warn


def pyplot() -> Any:
    """Matplotlib's, that opens no window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def draw_lines(
    lines: Mapping[str, Iterable[tuple[float, float]]], x: str, y: str, target: Path
) -> Path | None:
    """Draw named lines of (x, y), with a name for each axis; see `save_figure`."""
    figure, axes = pyplot().subplots(figsize=(7, 4.2), dpi=120)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize="small")
    return save_figure(figure, target)


def save_figure(figure: Any, target: Path) -> Path | None:
    """Write and close a figure; None, and a note to the user, where it cannot be written."""
    figure.tight_layout()
    try:
        figure.savefig(target)
    except OSError as error:
        warn(f"{target}: no plot ({error.strerror})", PhotonNote)
        return None
    finally:
        pyplot().close(figure)
    return target
