"""Memory of every process of a federation over Flower, by the size of what travels.

    python benchmarks/process_memory.py [--widths 64 512 1024] [--transport inline]

`photon server` and two `photon node`, TLS, two rounds of one step; updates in fp32 are as large as
the model. Anonymous memory (what the kernel cannot take back), sampled every 20 ms; the largest
process of each kind counts. The first width is so small that it shows what the programs need. A
line of each goes to benchmarks/results/process_memory.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from plan import measure, prepared
from records import RESULTS, append
from relay import children_of, stat
from server_memory import anonymous_megabytes

from photon.config import load_config
from photon.model.flops import model_cost

LOG = RESULTS / "process_memory.jsonl"
SUPEREXEC = b"photon.flower.superexec_process"
SUPERLINK = b"photon.flower.superlink_process"
KINDS = {
    "server": b"photon\0server",
    "node": b"photon\0node",
    "worker of a node": b"photon.node.worker",
    "SuperLink": SUPERLINK,
    "relay at the server": SUPEREXEC,
    "SuperNode": b"photon.flower.supernode_process",
    "relay at a node": SUPEREXEC,
    "SuperExec": SUPEREXEC,
}
"""What is in the command line of each; a relay is a fork of its SuperExec."""


def kind_of(pid: int) -> str | None:
    line = line_of(pid)
    if b"photon.machine.guard" in line:
        return None
    if SUPEREXEC in line:
        parent = int(stat(pid)[1])
        if SUPEREXEC not in line_of(parent):
            return "SuperExec"
        is_server = SUPERLINK in line_of(int(stat(parent)[1]))
        return "relay at the server" if is_server else "relay at a node"
    return next((kind for kind, words in KINDS.items() if words in line), None)


def line_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


class Watch:
    """Most memory of a process of each kind, among the descendants of this one."""

    def __enter__(self) -> Watch:
        self.most: dict[str, float] = defaultdict(float)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            for pid in children_of(os.getpid()) - {os.getpid()}:
                with contextlib.suppress(OSError, IndexError):
                    kind = kind_of(pid)
                    if kind is not None:
                        self.most[kind] = max(self.most[kind], anonymous_megabytes(pid))
            time.sleep(0.02)


def shape(width: int, transport: str) -> list[str]:
    return ["recipe=smoke", "fl.n_rounds=2", "fl.eval_period=null", "fl.compression=fp32",
            "fl.aggregate_momenta=false", "fl.strategy_name=fedavg", "llm_config.local_steps=1",
            "llm_config.optimizer.name=adamw", f"llm_config.model.d_model={width}",
            f"llm_config.model.ffn_hidden_size={4 * width}", "llm_config.model.n_layers=4",
            "llm_config.device_train_microbatch_size=1", "llm_config.global_train_batch_size=1",
            f"photon.transport={transport}",
            "llm_config.scheduler.schedulers.lr.t_warmup=1ba"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 512, 1024])
    parser.add_argument("--transport", default="inline")
    arguments = parser.parse_args()
    print(f"| {arguments.transport}, megabytes of a payload | {' | '.join(KINDS)} |")
    print("|---" * (len(KINDS) + 1) + "|")
    for width in arguments.widths:
        keys = shape(width, arguments.transport)
        config = load_config(keys)
        with tempfile.TemporaryDirectory() as folder, Watch() as watch:
            measure(Path(folder), prepared(Path(folder), config), keys, None)
        size = 4 * model_cost(config.inner).parameters / 1e6
        peaks = " | ".join(f"{watch.most[kind]:.0f}" for kind in KINDS)
        print(f"| {size:.0f} | {peaks} |", flush=True)
        append(LOG, {"transport": arguments.transport, "megabytes": round(size),
                     "peaks": dict(watch.most)})  # fmt: skip


if __name__ == "__main__":
    main()
