"""`photon verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from photon.cli.options import PATH, RunPath, json_option


@click.command(name="verify")
@click.option(
    "--keys",
    multiple=True,
    type=PATH,
    metavar="FOLDER",
    help="Folder of `photon keys`, or copies of its server.pem and nodes.json; repeatable.",
)
@click.option(
    "--receipts",
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="A receipts.jsonl that a node has kept; repeatable.",
)
@json_option
@click.argument("run", type=RunPath())
def command(keys: tuple[Path, ...], receipts: tuple[Path, ...], as_json: bool, run: Path) -> int:
    """Check a run's history: chain, signatures, checkpoints, metrics, what nodes were told.

    The first broken link is named. Without --keys signatures are checked with the keys that the
    chain itself names: compare those with what you know. Exit code 2 if something is not as it was.

    \b
    photon verify runs/first
    photon verify runs/first --keys keys --receipts from-site-a/receipts.jsonl
    """
    from photon.chain.verify import verify_run

    found = []
    for check in verify_run(run, keys, receipts):
        found.append(check)
        if not as_json:
            click.echo(f"{check.verdict:<5} {check.what:<10} {check.text}")
    if as_json:
        click.echo(json.dumps([check._asdict() for check in found], indent=1))
    return 2 if any(check.verdict == "fail" for check in found) else 0
