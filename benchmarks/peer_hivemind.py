"""A peer of hivemind's averager: python peer_hivemind.py HOME SHAPES CLIENTS ROUNDS RANK.

Each round changes every tensor a little and averages all of them over all peers.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from hivemind import DHT
from hivemind.averaging import DecentralizedAverager
from peer_group import tell, tensors_of

HOST = "/ip4/127.0.0.1/tcp/0"


def main(home: str, shapes: str, clients: str, rounds: str, rank: str) -> None:
    torch.set_num_threads(1)
    first, count = Path(home) / "first", int(clients)
    while rank != "0" and not first.exists():
        time.sleep(0.05)
    known = first.read_text().split() if rank != "0" else []
    dht = DHT(initial_peers=known, host_maddrs=[HOST], start=True)
    if rank == "0":
        first.with_suffix(".part").write_text(" ".join(map(str, dht.get_visible_maddrs())))
        first.with_suffix(".part").rename(first)
    averager = DecentralizedAverager(
        tensors_of(shapes), dht, start=True, prefix="bench", target_group_size=count,
        min_group_size=count,
    )  # fmt: skip
    for done in range(int(rounds)):
        with averager.get_tensors() as tensors:
            for tensor in tensors:
                tensor.mul_(1 - 1e-4)
        while averager.step(timeout=300) is None:
            pass
        if rank == "0":
            tell(home, done + 1)
    time.sleep(1e9)  # until all have been measured


if __name__ == "__main__":
    main(*sys.argv[1:])
