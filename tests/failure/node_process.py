"""A node service, for a process of its own: forked, or python node_process.py SOCKETS NAME CLIENTS
OVERRIDES...
"""

from __future__ import annotations

import sys
from pathlib import Path

from photon.config import load_config
from photon.machine.interrupt import StopRequest
from photon.node.service import NodeService
from photon.wire.enrolment import parse_clients


def main(sockets: Path, name: str, clients: str, overrides: list[str]) -> None:
    with StopRequest() as stop:
        path, own = sockets / f"{name}.sock", load_config(overrides)
        NodeService(name, parse_clients(clients), own, path, None, print).serve(stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:4], sys.argv[4:])
