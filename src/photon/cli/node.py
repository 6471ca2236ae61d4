"""`photon node`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from photon.cli.options import keys_option, overrides_argument, require_flower

if TYPE_CHECKING:
    from photon.config.dataset import StorageConfig


def _data(train: StorageConfig) -> str:
    """What the node will train on, which a missing key decides as well."""
    if train.root is None and train.store is None:
        return "the embedded corpus, since dataset.train.root_local is not set"
    return str(train.root or train.store)


@click.command(name="node")
@click.option("--server", required=True, metavar="HOST:PORT", help="Where the server listens.")
@click.option("--clients", required=True, help="Clients whose data is here, as in 0-3,7.")
@click.option("--name", help="The name that the node is enrolled by; default: the host's.")
@keys_option("Folder with ca.pem and NAME.key.")
@click.option("--insecure", is_flag=True, help="No TLS and no key; for a server started so.")
@overrides_argument
def command(
    server: str,
    clients: str,
    name: str | None,
    keys: Path,
    insecure: bool,
    overrides: tuple[str, ...],
) -> int:
    """Host clients of a federation on this machine.

    Only keys of this machine count: paths, devices, workers. The model, the optimizer and all else
    come with the server's instructions. Runs until it is stopped, for one run after another.

    \b
    photon node --server server.example.org:8000 --name site-a --clients 0-3 \\
        dataset.train.root_local=data/mine photon.saving_path=runs photon.device=cuda:0
    """
    import socket

    require_flower()
    from photon.config import load_config
    from photon.config.between.travel import ignored
    from photon.config.explain.idle import idle_overrides, note_idle
    from photon.errors import PhotonNote, warn
    from photon.flower.connection import find_node_keys
    from photon.flower.federation import run_node
    from photon.machine.address import dialled, format_address, split_address
    from photon.wire.enrolment import parse_clients

    name = name or socket.gethostname().split(".")[0]
    host, port = split_address(server)
    own = load_config(overrides)
    vain = ignored(overrides)
    for text in vain:
        warn(f"{text}: has no effect here: the server says it", PhotonNote)
    note_idle(idle_overrides(own, [text for text in overrides if text not in vain], "node"))
    numbers = parse_clients(clients)
    found = None if insecure else find_node_keys(keys, name)
    if insecure:
        click.echo("photon: warning: --insecure: nothing is encrypted", err=True)
    address = format_address(dialled(host), port)
    click.echo(f"node {name} hosts clients {clients} for {address}; stop it with Ctrl-C")
    click.echo(f"data        {_data(own.data.train)}")
    return run_node(address, name, numbers, found, own, click.echo)
