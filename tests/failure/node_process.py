"""A node service as a process: python node_process.py SOCKETS NAME CLIENTS OVERRIDES..."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from photon.config import load_config
from photon.machine.interrupt import StopRequest
from photon.node.service import NodeService
from photon.wire.enrolment import parse_clients


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    sockets, name, clients = arguments[:3]
    own = load_config(arguments[3:])
    with StopRequest() as stop:
        path = Path(sockets) / f"{name}.sock"
        service = NodeService(
            name, parse_clients(clients), own, path, None, lambda line: print(line, flush=True)
        )
        service.serve(stop)


if __name__ == "__main__":
    main(sys.argv[1:])
