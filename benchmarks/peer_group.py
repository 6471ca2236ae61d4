"""Peers of one another, each a process, in a network namespace of their own.

python benchmarks/peer_group.py SCRIPT HOME SHAPES CLIENTS ROUNDS
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import torch

SET_FLAGS, UP_AND_RUNNING = 0x8914, 0x41


def bring_loopback_up() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))


def tensors_of(shapes: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = json.loads(Path(shapes).read_text()).values()
    return [torch.randn(size, generator=generator) for size in sizes]


def tell(home: str, number: int) -> None:
    """A round has ended."""
    with open(Path(home) / "rounds.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps({"round": number}) + "\n")


def main(script: str, home: str, shapes: str, clients: str, rounds: str) -> int:
    bring_loopback_up()
    command = [sys.executable, str(Path(__file__).parent / script), home, shapes, clients, rounds]
    processes = [subprocess.Popen([*command, str(n)]) for n in range(int(clients))]
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
