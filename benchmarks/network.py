"""What it costs to carry payloads: files, shared memory, an object store; and whole rounds.

    python benchmarks/network.py spans      write + verify + read against plain copies of the bytes
    python benchmarks/network.py store      put + get through S3 against bare obstore
    python benchmarks/network.py rounds     rounds without training: server and two nodes, by size
    python benchmarks/network.py floor      a round of the local engine against its fsyncs

What is compared runs in the same process, in turns; medians of the turns count.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loopback import SocketLink
from photon.config import load_config
from photon.container.container import open_container, write_container
from photon.core.messages import (
    ClientState,
    RoundPlan,
    ServerState,
    StreamState,
    Update,
)
from photon.core.outer import sgd
from photon.core.round import Rules, close_round, open_round
from photon.node import hosted_run
from photon.node.service import NodeService
from photon.run.base import Base, received_of
from photon.run.checkpoint import load_update, save_answer, save_server_state, sent_file
from photon.run.run_data import RunData
from photon.server.depot import Depot
from photon.server.remote import RemoteEngine
from photon.server.roster import Roster
from photon.wire.enrolment import Register
from photon.wire.shared_memory import SharedMemory
from photon.wire.transport import transport_of

PAIRS = 5


def tree(megabytes: float) -> dict[str, torch.Tensor]:
    """Twelve fp32 tensors of so many bytes together."""
    count = max(1, int(megabytes * 1e6 / 4 / 12))
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": torch.randn(count, generator=generator) for i in range(12)}


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def spans(arguments: argparse.Namespace) -> None:
    """Bar: at most four plain copies."""
    tensors, root = tree(arguments.megabytes), Path(tempfile.mkdtemp(dir=arguments.folder))
    before = peak_megabytes()
    source, ref = root / "source", write_container(root / "source", tensors, {})
    shared = SharedMemory.create("bench")
    touched = torch.zeros(1)

    def through_file() -> None:
        ref = write_container(root / "p", tensors, {})
        found, _ = open_container(root / "p", ref)
        touched.add_(sum(value[::1024].sum() for value in found.values()))

    def through_memory() -> None:
        ref = write_container(root / "p", tensors, {})
        ticket = shared.offer(root / "p", ref)
        (root / "q").unlink(missing_ok=True)
        shared.fetch(ticket, ref, root / "q")
        shared.withdraw(ticket)

    data = source.read_bytes()

    def copy() -> None:
        """From memory to a file: `copyfile` would share blocks where the file system can."""
        (root / "copy").write_bytes(data)
        (root / "copy").unlink()

    try:
        for name, action in (("file", through_file), ("shared memory", through_memory)):
            ratios = [seconds(action) / seconds(copy) for _ in range(PAIRS)]
            print(f"{name}, {ref.size / 1e6:.0f} MB: {statistics.median(ratios):.2f} plain copies "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
        print(f"peak memory beyond the tensors: {peak_megabytes() - before:.0f} MB")
    finally:
        shared.close()
        shutil.rmtree(root)


def store(arguments: argparse.Namespace) -> None:
    """Bar: 0.7 of the speed of bare obstore."""
    import obstore
    from obstore.store import S3Store

    from photon.wire.object_store import ObjectStore
    from photon.wire.signed_urls import fetch, upload

    tensors, root = tree(arguments.megabytes), Path(tempfile.mkdtemp(dir=arguments.folder))
    ref = write_container(root / "p", tensors, {})
    with s3_server() as bucket:
        ours = ObjectStore(bucket, "run")
        options = {"allow_http": True, "timeout": "300s"}
        bare = S3Store.from_url(bucket, client_options=options, config={"region": "us-east-1"})
        ours.offer(root / "p", ref)

        def photon() -> None:
            ticket = upload(root / "p", ref, ours.grant(1, ref.size))
            fetch(ours.locate(ticket), ref, root / "q")
            ours.withdraw(ticket)

        def plain() -> None:
            obstore.put(bare, "plain", root / "p")
            with open(root / "r", "wb") as file:
                for piece in obstore.get(bare, "plain").stream():
                    file.write(piece)

        ratios = [seconds(plain) / seconds(photon) for _ in range(PAIRS)]
    speed = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"put + get of {ref.size / 1e6:.0f} MB: {speed} of bare obstore's speed")
    shutil.rmtree(root)


class s3_server:  # noqa: N801
    """moto's server on loopback; gives a bucket's URL."""

    def __enter__(self) -> str:
        from photon.machine.address import free_port

        sys.path.insert(0, str(Path(__file__).parent))
        from data import _make_bucket

        port = free_port()
        os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
                       "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}  # fmt: skip
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        _make_bucket(f"http://127.0.0.1:{port}/bench")
        return "s3://bench"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


class Echo:
    """An engine that answers at once with an update of the base's size, which it keeps."""

    def __init__(self, clients: Path) -> None:
        self.clients = clients

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Iterator[Update]:
        for client in waiting:
            gradient = {name: (value + client) * 1e-4 for name, value in base.sent.params.items()}
            update = Update(
                run="bench", round=plan.round, client=client, gradient=gradient, moments={},
                num_tokens=1, num_steps=1, base_digest=plan.base_digest,
                metrics={"train_loss": 1.0},
            )  # fmt: skip
            kept = ClientState(round=plan.round, stream=StreamState())
            yield load_update(save_answer(self.clients, update, kept))

    def close(self) -> None:
        """Nothing to end."""


def rounds(arguments: argparse.Namespace) -> None:
    """Seconds of a round, commit and all, for two nodes with one client each."""
    hosted_run.local_engine = lambda folder, config, device: Echo(folder.clients)
    torch.set_num_threads(1)
    with s3_server() as bucket:
        for megabytes in arguments.sizes:
            for via in ("inline", "shm", "s3"):
                with tempfile.TemporaryDirectory(dir=arguments.folder) as home:
                    taken = _rounds_over(Path(home), megabytes, via, bucket)
                print(f"{megabytes:>8g} MB  {via:<7} {statistics.median(taken):7.3f} s a round "
                      f"({min(taken):.3f} to {max(taken):.3f})", flush=True)  # fmt: skip
    print(f"peak memory of server and both nodes in one process: {peak_megabytes():.0f} MB")


def _rounds_over(home: Path, megabytes: float, via: str, bucket: str) -> list[float]:
    own = load_config(["recipe=smoke", f"photon.saving_path={home}", "run_uuid=bench",
                       f"photon.transport={via}", f"photon.transport_url={bucket}",
                       "llm_config.device_train_microbatch_size=1"])  # fmt: skip
    from photon.config.resolve import resolve
    from photon.run.preparation import prepare

    config = resolve(own, cores=1, accelerator=False, run_uuid="bench", elsewhere=True)
    config, _ = prepare(config, lambda line: None)
    stop, threads = threading.Event(), []
    for client in (0, 1):
        changed = own.but(machine={"runs_folder": str(home / str(client))})
        path = home / "sockets" / f"{client}.sock"
        service = NodeService(str(client), [client], changed, path, None, lambda line: None)
        threads.append(threading.Thread(target=service.serve, args=(stop.is_set,)))
        threads[-1].start()
    link, outer = SocketLink(home / "sockets"), sgd(lr=1.0)
    roster = Roster(link, Register(None), print if os.environ.get("DEBUG") else lambda line: None)
    side = transport_of(config.machine.transport).server(config.machine, "bench")
    depot = Depot(home / "depot", side)
    facts = hosted_run.data_facts(RunData.of(*config.reading))
    engine = RemoteEngine(config, facts, link, roster, depot, print)
    params = tree(megabytes)
    state = ServerState(round=0, step=0, params=params, outer=outer.init(params))
    saved = save_server_state(home / "checkpoints", state)
    engine.alive(lambda: False)
    taken, rules = [], Rules(quorum=2)
    for _ in range(PAIRS + 1):
        begun = time.perf_counter()
        base = Base.at(sent_file(saved)[0], received_of(state), sent_file(saved)[1])
        plan = open_round(
            state, run="bench", steps={0: 1, 1: 1}, rules=rules, base_digest=base.ref.digest
        )
        waiting = deque(plan.cohort)
        arrivals = engine.run_round(plan, base, waiting, lambda: False)
        updates = [arrival for arrival in arrivals if isinstance(arrival, Update)]
        state, _ = close_round(state, plan, updates, outer=outer, rules=rules)
        saved = save_server_state(home / "checkpoints", state)
        taken.append(time.perf_counter() - begun)
        for old in sorted((home / "checkpoints").iterdir())[:-2]:
            old.unlink()
    stop.set()
    for thread in threads:
        thread.join()
    engine.close()
    return taken[1:]


def floor(arguments: argparse.Namespace) -> None:
    """Bar: at most 50 ms beyond its fsyncs."""
    import photon

    synced: list[float] = []
    fsync = os.fsync

    def timed(descriptor: int) -> None:
        synced.append(seconds(lambda: fsync(descriptor)))

    os.fsync = timed
    count = 40
    with tempfile.TemporaryDirectory(dir=arguments.folder) as home:
        keys = ["recipe=smoke", f"photon.saving_path={home}", f"fl.n_rounds={count}",
                "fl.eval_period=null", "llm_config.local_steps=1"]  # fmt: skip
        photon.train([*keys, "run_uuid=warm", "fl.n_rounds=2"])
        synced.clear()
        result = photon.train([*keys, "run_uuid=measured"])
    assert result.federated is not None
    each, own = result.federated.seconds / count, sum(synced) / count
    print(f"a round of two clients and a tiny step: {each * 1e3:.1f} ms, of it {own * 1e3:.1f} ms "
          f"in {len(synced) / count:.1f} fsyncs; {(each - own) * 1e3:.1f} ms beyond")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["spans", "store", "rounds", "floor"])
    parser.add_argument("--megabytes", type=float, default=500.0)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e-6, 1.0, 100.0])
    parser.add_argument("--folder", type=Path, help="where files are written; default: temporary")
    arguments = parser.parse_args()
    globals()[arguments.what](arguments)


if __name__ == "__main__":
    main()
