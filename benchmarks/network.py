"""What whole rounds cost beside training; `transport.py` has the transports by themselves.

    python benchmarks/network.py rounds     rounds without training: server and two nodes, by size
    python benchmarks/network.py floor      a round of the local engine against its fsyncs
    python benchmarks/network.py flower     a round over Flower with TLS, two nodes, one tiny step

Medians of turns. Lines go to benchmarks/results/network.jsonl; with --smoke there is one small size
or a few rounds, and nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, append
from transport import s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from loopback import SocketLink
from photon.config import load_config
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
from photon.node.hosted_run import HostedRun
from photon.node.service import NodeService
from photon.run.base import Base, received_of
from photon.run.checkpoint import load_update, save_answer, save_server_state, sent_file
from photon.run.run_data import RunData
from photon.server.depot import Depot
from photon.server.remote import RemoteEngine
from photon.server.roster import Roster
from photon.wire.enrolment import Register
from photon.wire.transport import transport_of

LOG = RESULTS / "network.jsonl"
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


class Echo:
    """An engine that answers at once with an update of the base's size, which it keeps."""

    devices = 1

    def __init__(self, clients: Path, tokens: int) -> None:
        self.clients, self.tokens = clients, tokens

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Iterator[Update]:
        for client in waiting:
            gradient = {name: (value + client) * 1e-4 for name, value in base.sent.params.items()}
            update = Update(
                run="bench", round=plan.round, client=client, gradient=gradient, moments={},
                num_tokens=self.tokens, num_steps=1, base_digest=plan.base_digest,
                metrics={"train_loss": 1.0},
            )  # fmt: skip
            kept = ClientState(round=plan.round, stream=StreamState())
            yield load_update(save_answer(self.clients, update, kept))

    def close(self) -> None:
        """Nothing to end."""


def nodes_answer_at_once() -> None:
    """Nodes of this process have an `Echo` for an engine."""
    HostedRun.open = partial(  # pyright: ignore
        HostedRun.open,
        make_engine=lambda folder, run, device: Echo(folder.clients, run.inner.tokens_per_step),
    )


def rounds(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a round, commit and all, for two nodes with one client each."""
    nodes_answer_at_once()
    torch.set_num_threads(1)
    with s3_server() as bucket:
        for megabytes in arguments.sizes:
            for via in ("inline", "shm", "s3"):
                with tempfile.TemporaryDirectory(dir=arguments.folder) as home:
                    taken = _rounds_over(Path(home), megabytes, via, bucket)
                print(f"{megabytes:>8g} MB  {via:<7} {statistics.median(taken):7.3f} s a round "
                      f"({min(taken):.3f} to {max(taken):.3f})", flush=True)  # fmt: skip
                yield {"megabytes": megabytes, "via": via, "seconds": statistics.median(taken),
                       "seconds_min": min(taken), "seconds_max": max(taken)}  # fmt: skip
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
        before = f"round_{state.round - 1:06d}"
        for old in (home / "checkpoints").iterdir():
            if old.name < before:
                old.unlink()
    stop.set()
    for thread in threads:
        thread.join()
    engine.close()
    return taken[1:]


def floor(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Bar: at most 50 ms beyond its fsyncs."""
    import photon

    synced: list[float] = []
    fsync = os.fsync

    def timed(descriptor: int) -> None:
        synced.append(seconds(lambda: fsync(descriptor)))

    os.fsync = timed
    count = 3 if arguments.smoke else 40
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
    yield {"round_seconds": each, "fsync_seconds": own, "fsyncs": len(synced) / count,
           "beyond_seconds": each - own}  # fmt: skip


def flower(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What `photon plan` supposes of a round beside training and transfers."""
    from plan import beside, measure, prepared, shape

    tiny = argparse.Namespace(width=32, rounds=3 if arguments.smoke else 12, local_steps=1)
    keys = shape(tiny)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        home = Path(folder)
        found = [
            beside(one) for one in measure(home, prepared(home, load_config(keys)), keys, None)
        ]
    median, least, most = statistics.median(found), min(found), max(found)
    print(f"a round over Flower with TLS beside its training: {median:.2f} s "
          f"({least:.2f} to {most:.2f}; {len(found)} rounds)")  # fmt: skip
    yield {"beside_seconds": median, "least": least, "most": most, "rounds": len(found)}


PARTS = {"rounds": rounds, "floor": floor, "flower": flower}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e-6, 1.0, 100.0, 500.0])
    parser.add_argument("--folder", type=Path, help="where files are written; default: temporary")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.sizes = [1e-6]
    for line in PARTS[arguments.what](arguments):
        if not arguments.smoke:
            append(LOG, {"part": arguments.what, **line})


if __name__ == "__main__":
    main()
