"""A replica of torchft's DiLoCo over gloo: python peer_torchft.py HOME SHAPES CLIENTS ROUNDS RANK.

An inner step changes every parameter a little; each is followed by an outer one.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from peer_group import tell, tensors_of
from torch import nn
from torch.distributed import TCPStore
from torchft.coordination import LighthouseServer
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.process_group import ProcessGroupGloo

HOST, LIMIT = "127.0.0.1", timedelta(seconds=300)


def main(home: str, shapes: str, clients: str, rounds: str, rank: str) -> None:
    torch.set_num_threads(1)
    number, count = int(rank), int(clients)
    address = Path(home) / "lighthouse"
    if number == 0:
        lighthouse = LighthouseServer(bind=f"{HOST}:0", min_replicas=count, join_timeout_ms=60_000)
        address.with_suffix(".part").write_text(lighthouse.address())
        address.with_suffix(".part").rename(address)
    while not address.exists():
        time.sleep(0.05)
    model = nn.ParameterList(tensors_of(shapes))
    inner = torch.optim.SGD(model.parameters(), lr=1e-4)
    outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    manager = Manager(
        pg=ProcessGroupGloo(timeout=LIMIT),
        min_replica_size=count,
        load_state_dict=lambda state: None,
        state_dict=dict,
        use_async_quorum=False,
        timeout=LIMIT,
        quorum_timeout=LIMIT,
        rank=0,
        world_size=1,
        store_addr=HOST,
        store_port=store.port,
        lighthouse_addr=address.read_text().replace("http://0.0.0.0", f"http://{HOST}"),
        replica_id=f"replica{number}",
        hostname=HOST,
        init_sync=False,
    )
    with DiLoCo(manager, [model], inner, outer, sync_every=1, use_bucketization=True):
        for done in range(int(rounds)):
            for p in model.parameters():
                p.grad = p.detach().clone()
            inner.step()
            if number == 0:
                tell(home, done + 1)
    time.sleep(1e9)  # until all have been measured


if __name__ == "__main__":
    main(*sys.argv[1:])
