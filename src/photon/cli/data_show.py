"""`photon data show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from photon.data.prepare.summary import ClientSummary

_SHOWN_SOURCES = 3


@click.command(name="show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def show(folder: Path, as_json: bool) -> None:
    """Show what each client holds, and how far its text is from the others'.

    \b
    overlap      documents that another client or the common validation set holds too: must be 0
    divergence   bits (Jensen-Shannon) between its token frequencies and the clients' mean
    """
    from photon.data.prepare import summary

    summaries = summary.summarise(folder)
    if as_json:
        click.echo(json.dumps(summary.as_json(summaries), indent=1))
        return
    click.echo(
        f"{'client':>6} {'documents':>11} {'train tokens':>15} {'validation':>13} {'overlap':>8} "
        f"{'divergence':>10}  sources"
    )
    for client in summaries:
        overlap = "?" if client.overlap is None else f"{client.overlap:,}"
        click.echo(
            f"{client.client:>6} {client.documents:>11,} {client.train_tokens:>15,} "
            f"{client.validation_tokens:>13,} {overlap:>8} {client.divergence:>10.4f}  "
            f"{_sources(client)}"
        )


def _sources(client: ClientSummary) -> str:
    """The largest sources, by documents."""
    ordered = sorted(client.sources.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {count:,}" for name, count in ordered[:_SHOWN_SOURCES])
    more = len(ordered) - _SHOWN_SOURCES
    return shown + (f", {more} more" if more > 0 else "")
