"""A node service, for a process of its own."""

from __future__ import annotations

from pathlib import Path

from photon.config import load_config
from photon.machine.interrupt import StopRequest
from photon.node.service import NodeService
from photon.wire.enrolment import parse_clients


def main(sockets: Path, name: str, clients: str, overrides: list[str]) -> None:
    with StopRequest() as stop:
        path, own = sockets / f"{name}.sock", load_config(overrides)
        NodeService(name, parse_clients(clients), own, path, None, print).serve(stop)
