"""Whether `photon plan` knows what training takes: its estimate against real runs on this CPU.

    python benchmarks/memory.py [CASE ...]

Two clients, two rounds of two steps (or four steps of a centralised run), each in a process of its
own. Anonymous memory (what the kernel cannot take back), sampled every 2 ms. The second figures
leave out what the program takes without a model. A line of each goes to
benchmarks/results/memory.jsonl.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from records import RESULTS, append
from relay import children_of
from server_memory import anonymous_megabytes

from photon.config import load_config
from photon.config.resolve import resolve
from photon.config.schema import Config
from photon.data.prepare.embedded import prepare_embedded
from photon.experiment.experiment import train
from photon.node.microbatch import Trainers
from photon.run.preparation import architecture_of
from photon.training.memory import PROGRAM

LOG = RESULTS / "memory.jsonl"
COMMON = ["fl.n_total_clients=2", "fl.n_rounds=2", "llm_config.local_steps=2",
          "llm_config.scheduler.schedulers.lr.t_warmup=1ba", "llm_config.max_duration=4",
          "llm_config.eval_interval=4", "compare.centralized=false", "compare.alone=false",
          "photon.threads=2", "photon.workers=0", "llm_config.precision=fp32"]  # fmt: skip
SMALL = ["llm_config.model.vocab_size=16384", "llm_config.model.d_model=256",
         "llm_config.model.n_layers=4", "llm_config.model.ffn_hidden_size=1024",
         "llm_config.optimizer.name=adamw", "llm_config.global_train_batch_size=4",
         "llm_config.device_train_microbatch_size=2", "llm_config.device_eval_batch_size=4",
         "llm_config.eval_subset_num_batches=2"]  # fmt: skip
ROWS = ["llm_config.global_train_batch_size=16", "llm_config.device_train_microbatch_size=16"]
CASES = {
    "llama-tiny": ["llm_config.device_train_microbatch_size=4"],
    "llama-tiny, 16 rows": ROWS,
    "8 M": SMALL,
    "8 M, 16 rows": [*SMALL, *ROWS],
    "8 M, adopt": [*SMALL, "llm_config.optimizer.name=adopt"],
    "8 M, muon, own moments": [*SMALL, "llm_config.optimizer.name=muon",
                               "fl.aggregate_momenta=false"],
    "8 M, fp32 travels": [*SMALL, "fl.compression=fp32"],
    "8 M, frozen embedding": [*SMALL, "fl.frozen_layers=[embedding]"],
    "8 M, personal embedding": [*SMALL, "fl.personalized_layers=[embedding]"],
    "8 M MPT, vocabulary resized to 32768": [*SMALL, "llm_config.model.name=mpt_causal_lm",
                                            "fl.resize_vocab=32768"],
    "8 M, in a worker": [*SMALL, "photon.workers=1"],
    "8 M, centralised": [*SMALL, "--centralized"],
    "llama-30m, 512 tokens": ["llm_config=llama-30m", *COMMON, "llm_config.max_seq_len=512",
                              "llm_config.global_train_batch_size=2",
                              "llm_config.device_train_microbatch_size=1",
                              "llm_config.device_eval_batch_size=1",
                              "llm_config.eval_subset_num_batches=2"],
}  # fmt: skip


def run(keys: list[str], is_centralized: bool) -> None:
    """Train in this process and print the most megabytes of it and of a worker."""
    own, most, done = os.getpid(), {"run": 0.0, "worker": 0.0}, threading.Event()

    def watch() -> None:
        while not done.is_set():
            most["run"] = max(most["run"], anonymous_megabytes())
            for pid in children_of(own) - {own} if config.machine.workers else ():
                with contextlib.suppress(OSError):
                    if b"photon.node.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        most["worker"] = max(most["worker"], anonymous_megabytes(pid))
            time.sleep(0.002)

    config = load_config(keys)
    torch.set_num_threads(2)
    thread = threading.Thread(target=watch)
    thread.start()
    train(config, centralized=is_centralized)
    done.set()
    thread.join()
    print(json.dumps(most))


def estimate(config: Config, is_centralized: bool) -> int:
    """Of the process that trains."""
    model = architecture_of(config.inner.model, config.federation.vocabulary)
    config = config.with_model(model)
    config = resolve(config, cores=2, accelerator=0, run_uuid="r", centralized=is_centralized)
    rows = config.inner.microbatch_rows
    assert isinstance(rows, int)
    role = "centralized" if is_centralized else "run"
    return Trainers.of(config, role).process(rows).peak("cpu")


def measure(name: str, home: Path) -> dict[str, Any]:
    """The line of a case in the log."""
    is_centralized = "--centralized" in CASES[name]
    keys = [*COMMON, *(key for key in CASES[name] if not key.startswith("--"))]
    config = load_config(keys)
    length = config.inner.row_length
    data = home / f"data_{length}"
    if not data.exists():
        prepare_embedded(data, config.data.embedded, 2, length)
    keys += [f"dataset.train.root_local={data}", f"photon.saving_path={home / 'runs'}"]
    kind = ["--centralized"] if is_centralized else []
    command = [sys.executable, __file__, "--run", *kind, *keys]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    most = found["worker" if config.machine.workers == 1 else "run"]
    planned, program = estimate(load_config(keys), is_centralized) / 1e6, PROGRAM / 1e6
    print(f"| {name} | {planned:.0f} | {most:.0f} | {planned / most - 1:+.0%} | "
          f"{planned - program:.0f} | {most - program:.0f} |", flush=True)  # fmt: skip
    return {"case": name, "planned_megabytes": planned, "measured_megabytes": most,
            "program_megabytes": program}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--centralized", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.cases, arguments.centralized)
        return
    if unknown := [name for name in arguments.cases if name not in CASES]:
        parser.error(f"no case is named {unknown[0]!r}; there are: {'; '.join(CASES)}")
    print("| run | planned MB | measured MB | deviation | without the program | measured |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.cases or CASES:
            append(LOG, measure(name, Path(folder)))


if __name__ == "__main__":
    main()
