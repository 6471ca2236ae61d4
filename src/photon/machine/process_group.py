"""The processes of a job that `torchrun` has started; one process by itself needs none of this."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from photon.errors import DeviceError, PhotonError
from photon.machine.device import choose_device
from photon.machine.interrupt import StopRequest
from photon.training.parallel import ALONE, World

TIMEOUT = timedelta(minutes=30)
_LAST_TENSORS_SECONDS = 0.2
"""Gloo's threads give back the last collectives' tensors a moment after those are done, for which
they ask for the interpreter's lock: if the interpreter is gone by then, the process aborts."""


@contextmanager
def process_group(device_name: str) -> Iterator[tuple[World, torch.device]]:
    """Join the job's process group for the length of a block.

    Args:
        device_name: `photon.device`; on GPUs each process takes the one of its local rank.

    Raises:
        DeviceError: more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # not started by torchrun, or alone in it
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
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
        time.sleep(_LAST_TENSORS_SECONDS)  # gives away the lock


def from_first(world: World, compute: Callable[[], Any]) -> Any:
    """What the first process computes, on all of them; a JSON value.

    Raises:
        PhotonError: what `compute` raised, on the first process; the others leave quietly.
    """
    if world.size == 1:
        return compute()
    try:
        answer = {"value": compute()} if world.is_first else {}
    except PhotonError as error:
        _broadcast(world, {"exit_code": error.exit_code})
        raise
    answer = _broadcast(world, answer)
    if "exit_code" in answer:
        raise SystemExit(answer["exit_code"])
    return answer["value"]


def _broadcast(world: World, value: dict[str, Any]) -> dict[str, Any]:
    body = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(body)])
    dist.broadcast(length, 0)
    buffer = body if world.is_first else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(buffer, 0)
    return json.loads(buffer.numpy().tobytes())


class AgreedStop(StopRequest):
    """A stop request of any process of the job, heard by all of them at the same step."""

    def __init__(self, own: StopRequest, world: World) -> None:
        super().__init__()
        self.own, self.world = own, world

    def __call__(self) -> bool:
        if not self.signum and self.world.any(self.own()):
            self.signum = self.own.signum or signal.SIGTERM
        return self.signum != 0
