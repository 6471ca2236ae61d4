"""`photon report`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import PATH, RunPath
from photon.errors import StorageError, require_package


@click.command(name="report")
@click.option("--out", type=PATH, help="The page; default: in the run.")
@click.argument("runs", nargs=-1, required=True, type=RunPath(), metavar="RUN...")
def command(out: Path | None, runs: tuple[Path, ...]) -> None:
    """Write one HTML page about a run, or one that compares several: it needs no other file.

    \b
    photon report runs/NAME
    photon report runs/A runs/B --out comparison.html
    """
    require_package("plotly", "report", "photon report needs Plotly")
    from plotly.offline import get_plotlyjs

    from photon.report.history import read_histories
    from photon.report.page import render

    page = render(read_histories(runs), get_plotlyjs())
    path = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot write ({error.strerror})") from error
    click.echo(path)
