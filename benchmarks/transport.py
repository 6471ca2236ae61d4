"""Transports of payloads against the plain operation that each of them cannot do without.

    python benchmarks/transport.py file     shared memory and files against plain copies
    python benchmarks/transport.py store    a local S3 server, against bare put and get of obstore
    python benchmarks/transport.py memory   peak memory of each, beyond the payload's own tensors

What is compared takes turns in one process; medians of the turns' ratios count. Lines go to
benchmarks/results/transport.jsonl; with --smoke payloads are of a megabyte, and nothing is kept.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, append
from torch import Tensor

from photon.container.container import (
    ContainerRef,
    open_container,
    verify_container,
    write_container,
)
from photon.wire.object_store import ObjectStore
from photon.wire.shared_memory import SHARED, SharedMemory
from photon.wire.signed_urls import fetch, upload

LOG = RESULTS / "transport.jsonl"
FACTS = {"kind": "benchmark"}
Spans = dict[str, float]
Tensors = dict[str, Tensor]
Lines = Iterator[dict[str, Any]]
"""Of the log, without the name of the part."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.megabytes, arguments.pairs = 1, 1
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"{arguments.megabytes} MB, {os.cpu_count()} cores, load {load:.1f}")
    about = {"part": arguments.what, "megabytes": arguments.megabytes, "load": round(load, 1)}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="photon-bench-") as folder:
        for line in PARTS[arguments.what](arguments, Path(folder)):
            if not arguments.smoke:
                append(LOG, {**about, **line})


def file(arguments: argparse.Namespace, disk: Path) -> Lines:
    """Write, offer, fetch (which verifies) and read, against copies on the same file system."""
    tensors = make_tensors(arguments.megabytes)
    into = {name: torch.zeros_like(value) for name, value in tensors.items()}
    shared = SharedMemory.create("bench")
    with tempfile.TemporaryDirectory(dir=SHARED, prefix="photon-bench-") as name:
        memory = Path(name)
        try:
            arms: dict[str, tuple[Path, Callable[[], Spans]]] = {
                "a file on disk": (disk, lambda: through_file(disk, tensors, into)),
                "a file in shared memory": (memory, lambda: through_file(memory, tensors, into)),
                "shared memory, taken over": (
                    memory, lambda: through_shared(shared, memory, memory, tensors, into)),
                "shared memory, put aside on disk": (
                    disk, lambda: through_shared(shared, memory, disk, tensors, into)),
            }  # fmt: skip
            for arm, (place, ours) in arms.items():
                yield compare(arm, arguments.pairs, ours, lambda p=place: copy_of(p, tensors))
        finally:
            shared.close()


def store(arguments: argparse.Namespace, disk: Path) -> Lines:
    """A server's base down and a node's update up, each put and get, against obstore's own."""
    import obstore
    from obstore.store import S3Store

    tensors = make_tensors(arguments.megabytes)
    path, target = disk / "payload", disk / "target"
    ref = write_container(path, tensors, FACTS)
    with s3_server():
        ours = ObjectStore("s3://bench/ours", "run")
        bare = S3Store("bench", client_options={"allow_http": True, "timeout": "60s"})

        def plain() -> Spans:
            begun = time.perf_counter()
            obstore.put(bare, "bare", path)
            sent = time.perf_counter()
            with open(target, "wb") as out:
                for piece in obstore.get(bare, "bare").stream(min_chunk_size=1 << 20):
                    out.write(piece)
            return {"put": sent - begun, "get": time.perf_counter() - sent}

        ours.withdraw(ours.offer(path, ref))  # tells how large updates may be
        for arm, way in (("base: signed GET", base), ("update: signed PUT", update)):
            yield compare(arm, arguments.pairs, lambda w=way: w(ours, path, ref, target), plain)


def base(ours: ObjectStore, path: Path, ref: ContainerRef, target: Path) -> Spans:
    begun = time.perf_counter()
    ticket = ours.offer(path, ref)
    sent = time.perf_counter()
    fetch(ticket, ref, target, lambda: False)
    got = time.perf_counter()
    ours.withdraw(ticket)
    return {"put": sent - begun, "get": got - sent}


def update(ours: ObjectStore, path: Path, ref: ContainerRef, target: Path) -> Spans:
    begun = time.perf_counter()
    ticket = upload(path, ref, ours.grant(1, ref.size), lambda: False)
    sent = time.perf_counter()
    fetch(ours.locate(ticket), ref, target, lambda: False)
    got = time.perf_counter()
    ours.withdraw(ticket)
    return {"put": sent - begun, "get": got - sent}


def memory(arguments: argparse.Namespace, disk: Path) -> Lines:
    """Peak of the process's own memory during each operation, less that before it."""
    tensors = make_tensors(arguments.megabytes)
    payload = arguments.megabytes / 1000
    path, target = disk / "payload", disk / "target"
    ref = write_container(path, tensors, FACTS)

    def report(what: str, run: Callable[[], object]) -> dict[str, Any]:
        with peak() as grown:
            run()
        print(f"{what:32s} {grown[0] / 1e6:6.0f} MB of its own, {grown[1] / 1e6:6.0f} MB with "
              f"mapped files: {grown[1] / 1e9 / payload:.2f} payloads", flush=True)  # fmt: skip
        own, mapped = (value / 1e6 for value in grown)
        return {"arm": what, "own_megabytes": own, "mapped_megabytes": mapped}

    yield report("write", lambda: write_container(path, tensors, FACTS))
    yield report("verify", lambda: verify_container(path, ref))
    yield report("verify and map", lambda: open_container(path, ref))
    shared = SharedMemory.create("bench")

    def bring() -> None:
        shared.fetch(shared.offer(path, ref), ref, target, lambda: False)

    yield report("shared memory, offer", lambda: shared.offer(path, ref))
    yield report("shared memory, fetch", bring)
    shared.close()
    with s3_server():
        ours = ObjectStore("s3://bench/ours", "run")
        yield report("object store, base", lambda: base(ours, path, ref, target))
        yield report("object store, update", lambda: update(ours, path, ref, target))


PARTS = {"file": file, "store": store, "memory": memory}


def make_tensors(megabytes: int) -> Tensors:
    """Of a model's sizes: a few large ones, many small ones; random, so that nothing compresses."""
    generator = torch.Generator().manual_seed(0)
    left, tensors = megabytes * 1_000_000 // 4, {}
    for index in range(1 << 20):
        if not left:
            break
        size = min(left, (38_633_472, 2_359_296, 768, 1_769_472)[min(index, 1 + index % 3)])
        tensors[f"layer.{index}"] = torch.randint(
            -(1 << 31), 1 << 31, (size,), dtype=torch.int32, generator=generator
        )
        left -= size
    return tensors


def through_file(folder: Path, tensors: Tensors, into: Tensors) -> Spans:
    path = folder / "payload"
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    ref = write_container(path, tensors, FACTS)
    written = time.perf_counter()
    found, _ = open_container(path, ref)
    verified = time.perf_counter()
    read_all(found, into)
    return {"write": written - begun, "verify": verified - written,
            "read": time.perf_counter() - verified}  # fmt: skip


def through_shared(
    shared: SharedMemory, source: Path, goal: Path, tensors: Tensors, into: Tensors
) -> Spans:
    path, target = source / "payload", goal / "target"
    path.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    ref = write_container(path, tensors, FACTS)
    written = time.perf_counter()
    ticket = shared.offer(path, ref)
    offered = time.perf_counter()
    shared.fetch(ticket, ref, target, lambda: False)
    fetched = time.perf_counter()
    read_all(open_container(target)[0], into)
    read = time.perf_counter()
    shared.withdraw(ticket)
    return {"write": written - begun, "offer": offered - written, "fetch": fetched - offered,
            "read": read - fetched}  # fmt: skip


def read_all(tensors: Tensors, into: Tensors) -> None:
    """Every byte, into tensors that are there, as those of a model are."""
    for name, value in tensors.items():
        into[name].copy_(value)


def copy_of(folder: Path, tensors: Tensors) -> Spans:
    """A plain copy of a payload that lies there, to a new file."""
    source, target = folder / "source", folder / "copy"
    if not source.exists():
        write_container(source, tensors, FACTS)
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    shutil.copyfile(source, target)
    spans = {"copy": time.perf_counter() - begun}
    target.unlink()
    return spans


def compare(
    arm: str, pairs: int, ours: Callable[[], Spans], plain: Callable[[], Spans]
) -> dict[str, Any]:
    """Take turns, each first in half of the pairs; medians of spans and of the ratio."""
    ours(), plain()
    mine, theirs = [], []
    for pair in range(pairs):
        for run, into in ((ours, mine), (plain, theirs))[:: 1 if pair % 2 else -1]:
            gc.collect()
            into.append(run())
    ratios = sorted(sum(a.values()) / sum(b.values()) for a, b in zip(mine, theirs, strict=True))
    print(f"{arm:32s} {describe(mine)} | plain {describe(theirs)} | "
          f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
          f"speed {1 / statistics.median(ratios):.2f}", flush=True)  # fmt: skip
    return {"arm": arm, "pairs": pairs, "ratio": statistics.median(ratios), "ratio_min": ratios[0],
            "ratio_max": ratios[-1], "spans": medians(mine), "plain": medians(theirs)}  # fmt: skip


def medians(turns: list[Spans]) -> Spans:
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def describe(turns: list[Spans]) -> str:
    return " + ".join(f"{name} {value:.2f}" for name, value in medians(turns).items()) + " s"


@contextmanager
def peak() -> Iterator[list[float]]:
    """Gives [anonymous, all] resident bytes at the peak beyond those at the start, by sampling."""
    gc.collect()
    start, top = resident(), [0.0, 0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.002):
            top[:] = [max(a, b - c) for a, b, c in zip(top, resident(), start, strict=True)]

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield top
    finally:
        stop.set()
        watcher.join()


def resident() -> tuple[int, int]:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(fields[name].split()[0]) for name in ("RssAnon", "VmRSS")}
    return kilobytes["RssAnon"] * 1024, kilobytes["VmRSS"] * 1024


@contextmanager
def s3_server() -> Iterator[str]:
    """moto's server on loopback, which the AWS environment points at; gives a bucket's URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key",
                   "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        make_bucket(f"{url}/bench", time.monotonic() + 60)
        yield "s3://bench"
    finally:
        server.kill()
        server.wait()


def make_bucket(url: str, deadline: float) -> None:
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
