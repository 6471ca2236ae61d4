"""Data-parallel training in plain torch, a process for each site, over the links of `links_hub.py`.

    python benchmarks/links_ddp.py SOCKET SITE WORK      what each of the processes is started with

`DistributedDataParallel` over gloo: every step averages gradients, in bf16 by torch's own hook and
in one bucket, which costs the fewest latencies. The model and the rows are Photon's, the optimizer
is torch's AdamW. A step computes for at least so long, as a node's does: it sleeps before, so that
what DDP sends while it computes is hidden.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from links_hub import DEVICE, Hub, Shape, address_of, own_network

PORT = 29_500
UNCOUNTED = 2
"""Steps at first: DDP sorts its buckets in the first one."""
ALONE = 3
"""Steps without the others, by which a process learns how long it computes."""
LIMIT = 600.0


@dataclass(frozen=True, slots=True)
class Work:
    """What all processes of a run do."""

    overrides: Sequence[str]
    sites: int
    steps: int
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of DDP.

    Attributes:
        step_seconds: median wall time of a step.
        step_bytes: of packets that all sites sent in a step, with their headers.
        compute_seconds: of a step without the others, before it is slowed down.
        losses: of each step, the first site's.
    """

    step_seconds: float
    step_bytes: float
    compute_seconds: float
    losses: list[float]


def measure(work: Work, shape: Shape) -> Ran:
    """Run it.

    Raises:
        RuntimeError: a process has failed; its last words.
    """
    with tempfile.TemporaryDirectory() as folder, _started(work, shape, Path(folder)) as started:
        processes, hub = started
        sent: list[int] = []
        first = processes[0].stdout
        assert first is not None
        told = [json.loads(line) for line in _counting(first, hub, sent)]
        for site, process in enumerate(processes):
            if process.wait(LIMIT):
                raise RuntimeError((Path(folder) / f"{site}.txt").read_text()[-2000:])
    return figures(told, sent)


def figures(told: Sequence[dict[str, float]], sent: Sequence[int]) -> Ran:
    """
    Args:
        told: by the first process, of each step.
        sent: bytes until each step was told of.
    """
    counted = len(told) - UNCOUNTED
    return Ran(
        step_seconds=statistics.median(one["seconds"] for one in told[UNCOUNTED:]),
        step_bytes=(sent[-1] - sent[UNCOUNTED - 1]) / counted,
        compute_seconds=told[0]["compute"],
        losses=[one["loss"] for one in told],
    )


def _counting(told, hub: Hub, sent: list[int]):
    for line in told:
        sent.append(sum(hub.sent.values()))
        yield line


@contextmanager
def _started(work: Work, shape: Shape, folder: Path):
    """The processes, and the hub between them."""
    processes, ends, hub = [], {}, None
    try:
        for site in range(work.sites):
            ours, theirs = socket.socketpair()
            command = [__file__, str(theirs.fileno()), str(site), json.dumps(asdict(work))]
            with ours, theirs, open(folder / f"{site}.txt", "wb") as words:
                processes.append(subprocess.Popen(
                    [sys.executable, *command], stdout=subprocess.PIPE, stderr=words,
                    pass_fds=[theirs.fileno()], start_new_session=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": DEVICE},
                ))  # fmt: skip
                theirs.close()
                _, received, _, _ = socket.recv_fds(ours, 1, 1)
            if not received:
                raise RuntimeError((folder / f"{site}.txt").read_text()[-2000:])
            ends[site] = received[0]
        hub = Hub(ends, shape)
        yield processes, hub
    finally:
        for process in processes:
            process.kill()
            process.wait()
        if hub is not None:
            hub.close()
        for end in ends.values():
            os.close(end)


def train(site: int, work: Work) -> None:
    """What a process does; the first one tells of each step."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://{address_of(0)}:{PORT}", rank=site,
                            world_size=work.sites)  # fmt: skip
    model, step = _trainer(site, work, _wrapped)
    model.register_comm_hook(None, _in_bf16)
    with model.no_sync():
        compute = statistics.median(_timed(step)[0] for _ in range(ALONE))
    model.zero_grad()
    dist.barrier()
    begun = time.monotonic()
    for _ in range(work.steps):
        time.sleep(max(0.0, work.step_seconds - compute))
        _, loss = _timed(step, learns=True)
        now = time.monotonic()
        if site == 0:
            print(
                json.dumps({"seconds": now - begun, "loss": loss, "compute": compute}), flush=True
            )
        begun = now
    dist.barrier()
    dist.destroy_process_group()


def _wrapped(model):
    """As for long links: each bucket, and each broadcast of buffers, would pay latencies anew."""
    from torch.nn.parallel import DistributedDataParallel

    whole = sum(value.numel() * value.element_size() for value in model.parameters())
    at_once = {"bucket_cap_mb": 1 + whole / 2**20, "gradient_as_bucket_view": True}
    return DistributedDataParallel(model, broadcast_buffers=False, **at_once)


def _in_bf16(group, bucket):
    """torch's hook, which `register_comm_hook` refuses by its name where gloo is to carry it."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    return bf16_compress_hook(None, bucket)


def _timed(step: Callable[..., float], **more: bool) -> tuple[float, float]:
    begun = time.monotonic()
    loss = step(**more)
    return time.monotonic() - begun, loss


def _trainer(site: int, work: Work, wrap):
    """The model, and a function that takes a step and gives its loss."""
    import torch
    import torch.nn.functional as F
    from peer_diloco import in_order

    from photon.config import load_config
    from photon.model.build import build_model
    from photon.run.run_data import RunData

    config = load_config(list(work.overrides))
    model = wrap(build_model(config.inner, config.seed))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batches = in_order(RunData.of(*config.reading).stream(site), config.inner.batch_rows)

    def step(*, learns: bool = False) -> float:
        rows = batches()
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        if learns:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return model, step


def main(socket_number: str, site: str, work: str) -> None:
    end = own_network(int(site))
    with socket.socket(fileno=int(socket_number)) as hub:
        socket.send_fds(hub, [b"."], [end])
    train(int(site), Work(**json.loads(work)))


if __name__ == "__main__":
    main(*sys.argv[1:])
