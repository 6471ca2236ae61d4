"""The processes of a job that `torchrun` has started; one process by itself needs none of this."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from photon.errors import DeviceError
from photon.runtime.device import choose_device
from photon.training.parallel import ALONE, World

TIMEOUT = timedelta(minutes=30)


def launched_by_torchrun() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group(device_name: str) -> Iterator[tuple[World, torch.device]]:
    """Join the job's process group for the length of a block.

    Args:
        device_name: `photon.device`; on GPUs each process takes the one of its local rank.

    Raises:
        DeviceError: more processes on this machine than GPUs.
    """
    if not launched_by_torchrun():
        yield ALONE, choose_device(device_name)
        return
    device = choose_device(device_name)
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise DeviceError(
                f"torchrun started a process number {local} here, but PyTorch sees "
                f"{torch.cuda.device_count()} GPUs; lower --nproc-per-node"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()


def from_first(world: World, value: Any, device: torch.device) -> Any:
    """The first process's JSON value, on all of them."""
    if world.size == 1:
        return value
    body = torch.tensor(
        list(json.dumps(value).encode()) if world.is_first else [], dtype=torch.uint8
    )
    length = torch.tensor([len(body)], device=device)
    dist.broadcast(length, 0)
    buffer = (
        body.to(device)
        if world.is_first
        else torch.empty(int(length), dtype=torch.uint8, device=device)
    )
    dist.broadcast(buffer, 0)
    return json.loads(bytes(buffer.tolist()))
