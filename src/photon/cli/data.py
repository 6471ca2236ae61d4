"""`photon data`: shows, checks, moves and converts prepared data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from photon.cli.options import A_DAY, PATH, Number, json_option

if TYPE_CHECKING:
    from photon.data.prepare.summary import ClientSummary

_SHOWN_SOURCES = 3


@click.group(name="data")
def command() -> None:
    """Show, check, move and convert prepared data.

    \b
    photon data show data/mine
    photon data verify data/mine
    photon data push data/mine s3://bucket/mine
    photon data import data/mds data/mine
    """


@command.command()
@click.argument("folder", type=PATH)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show what each client holds, and how far its text is from the others'.

    \b
    overlap      documents that another client or the common validation set holds too: must be 0
    divergence   bits (Jensen-Shannon) between its token frequencies and the clients' mean
    """
    from photon.data.prepare import summary

    summaries = summary.summarise(folder)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in summaries], indent=1))
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


@command.command()
@click.argument("folder", type=PATH)
def verify(folder: Path) -> None:
    """Compare every shard of prepared data with what its manifest says.

    The first shard that differs is named, with the offset of the damage; the exit code is 2.
    """
    from photon.data.read.verify import data_folders
    from photon.data.read.verify import verify as verify_data
    from photon.report.progress import transfer_progress

    total = sum(part.num_bytes for part in data_folders(folder))
    with transfer_progress(total) as advance:
        parts = verify_data(folder, advance)
    for part in parts:
        rows, shards = part.manifest["rows"], len(part.manifest["shards"])
        click.echo(
            f"{part.name:<22}{rows:>14,} rows {part.num_bytes:>18,} bytes {shards:>6} shards"
        )
    click.echo(f"all as written: {total:,} bytes")


@command.command()
@click.argument("folder", type=PATH)
@click.argument("url")
@click.option("--retry", default=2, show_default=True, type=click.IntRange(0, 1000),
              help="Attempts after the first.")  # fmt: skip
@click.option("--timeout", default=60.0, show_default=True, type=Number(0.001, A_DAY),
              help="Seconds for one request.")  # fmt: skip
def push(folder: Path, url: str, retry: int, timeout: float) -> None:
    """Upload prepared data to an object store, s3://BUCKET/PREFIX.

    \b
    photon data push data/c4 s3://corpora/c4
    photon train dataset.train.root_remote=s3://corpora/c4 dataset.train.cache_limit=20gb

    Endpoint and credentials are those of the AWS tools (AWS_ENDPOINT_URL, AWS_PROFILE, ...).
    """
    from photon.data.prepare.push import push as push_data
    from photon.data.read.remote import RemoteFolder
    from photon.data.read.verify import data_folders
    from photon.report.progress import transfer_progress

    total = sum(part.num_bytes for part in data_folders(folder))
    with transfer_progress(total) as advance:
        sent = push_data(
            folder, RemoteFolder(url, retry=retry, timeout=timeout, create=True), advance
        )
    click.echo(f"{url}: {sent:,} bytes sent" if sent else f"{url}: is there already")


@command.command(name="import")
@click.argument("source", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--tokenizer",
    type=PATH,
    required=True,
    help="The tokenizer.json that the data was made with, or a folder with one.",
)
@click.option(
    "--held-out",
    type=Number(0, 0.5, min_open=True),
    default=0.05,
    show_default=True,
    help="Share of a client's samples for validation where SOURCE has no validation part.",
)
def import_(source: Path, out: Path, tokenizer: Path, held_out: float) -> None:
    """Convert data prepared for the original Photon (MDS shards) to ours.

    SOURCE is a tree client_*/{train,validation}, or one MDS folder; its samples keep their order
    and length, one row each.
    """
    from photon.data.mds.importing import import_mds

    manifest = import_mds(source, out, tokenizer, held_out=held_out, say=click.echo)
    click.echo(f"imported    {manifest['train_tokens']:,} training tokens to {out}")
