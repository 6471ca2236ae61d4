"""`photon keys`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import PATH, require_flower

FOLDER = click.option(
    "--keys", "--folder", "folder", type=PATH, default=Path("keys"), show_default=True,
    help="Folder of the keys.",
)  # fmt: skip
"""`--keys` is what the other commands call it."""


@click.group(name="keys")
def command() -> None:
    """Make the keys of a federation: on the server, once.

    \b
    photon keys init --host server.example.org     certificate authority, server certificate
    photon keys add site-a --clients 0-3           a node's key, bound to the clients it may host
    photon keys remove site-a

    Then copy keys/ca.pem and keys/site-a.key to site-a, and delete site-a.key here.
    """


@command.command()
@click.option("--host", "hosts", multiple=True, help="Name or address of the server; repeatable.")
@FOLDER
def init(hosts: tuple[str, ...], folder: Path) -> None:
    """Make a certificate authority and the server's certificate."""
    require_flower()
    from photon.wire.keys import make_authority, require_host

    for host in hosts:
        require_host(host)
    names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"]))
    make_authority(folder, names)
    click.echo(f"server      {folder}/server.pem for {', '.join(names)}")
    click.echo("next        enrol each node: photon keys add NAME --clients 0-3")


@command.command()
@click.argument("name")
@click.option("--clients", required=True, help="Clients it may host, as in 0-3,7.")
@FOLDER
def add(name: str, clients: str, folder: Path) -> None:
    """Enrol a node: make its key, bind it to clients."""
    require_flower()
    from photon.wire.enrolment import format_clients, parse_clients
    from photon.wire.keys import enrol

    numbers = parse_clients(clients)
    path = enrol(folder, name, numbers)
    click.echo(f"enrolled    {name} for clients {format_clients(numbers)}")
    click.echo(f"move        {path} to that node, and copy {folder}/ca.pem there")
    click.echo("note        a running server learns of it when it is started again")


@command.command()
@click.argument("name")
@FOLDER
def remove(name: str, folder: Path) -> None:
    """Take a node off the register."""
    require_flower()
    from photon.wire.keys import remove as remove_node

    remove_node(folder, name)
    click.echo(f"removed     {name}; restart the server for it to count")
