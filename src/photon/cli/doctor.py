"""`photon doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from photon.cli.options import json_option, keys_option, overrides_argument, require_flower


@click.command(name="doctor")
@click.option("--server", metavar="HOST:PORT", help="Check the way to this server too.")
@click.option("--clients", help="Check that the data of these clients is here, as in 0-3,7.")
@click.option("--name", help="Check that the server knows this node's key.")
@keys_option("Folder with ca.pem, and NAME.key.")
@click.option("--insecure", is_flag=True, help="The server has no TLS.")
@json_option
@overrides_argument
def command(
    server: str | None,
    clients: str | None,
    name: str | None,
    keys: Path,
    insecure: bool,
    as_json: bool,
    overrides: tuple[str, ...],
) -> int:
    """Say what would go wrong with a run, before it does.

    Versions, device, memory against the model's need, disk, data; and the way to a server: port,
    certificate, clock, bandwidth, key. Exit code 2 if something fails.

    \b
    photon doctor llm_config=mpt-1b
    photon doctor dataset.train.root_local=data/mine
    photon doctor --server server.example.org:8000 --name site-a --clients 0-3 \\
        dataset.train.root_local=data/mine
    """
    from dataclasses import asdict

    from photon.config import load_config
    from photon.experiment.doctor import examine
    from photon.machine.address import split_address
    from photon.wire.enrolment import parse_clients

    if name is not None:
        require_flower()
    config = load_config(overrides)
    numbers = None if clients is None else parse_clients(clients)
    address = None if server is None else split_address(server)
    authority = None if insecure else keys / "ca.pem"
    key = None if name is None else keys / f"{name}.key"
    found = []
    for finding in examine(config, numbers, address, authority, key, overrides):
        found.append(finding)
        if not as_json:
            click.echo(f"{finding.verdict:<5} {finding.what:<10} {finding.text}")
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    return 2 if any(finding.verdict == "fail" for finding in found) else 0
