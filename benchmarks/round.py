"""How busy a round keeps the device, and what the rest of its time goes into.

    python benchmarks/round.py [--parameters 125M] [--seconds 2.3] [--moments reset averaged kept]
                               [--workers 0] [--ways overlapped sequential] [--pairs 1] [--top 12]

Real rounds of `photon.server.loop.Server` with the local engine, durable, on this machine's CPU;
only the trainer is replaced, by one that takes so many seconds a client and leaves the processor
alone. The ways take turns, each run in a process of its own. A round lasts from the record before
to its own, the commit before within it; the first one is not counted, and nothing is validated.
Memory is anonymous (what the kernel cannot take back), beyond the server's parameters and what
stands for the device's memory, in payloads: bytes of one update. A line of each run goes to
benchmarks/results/round.jsonl; with --smoke the model is tiny and nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import stand_in
import torch
from idle_time import NAMES, Profile, Watch, functions_of, parts_of
from records import RESULTS, append

from photon.config import load_config
from photon.config.dataset import EmbeddedCorpus
from photon.config.resolve import Run, resolve
from photon.container.container import digest
from photon.core.tree import num_bytes, num_elements
from photon.data.prepare.embedded import prepare_embedded
from photon.machine.device import num_cores, return_freed_memory
from photon.machine.interrupt import StopRequest
from photon.model.build import build_model, empty_model, parameters_of
from photon.node import engine as local
from photon.node import worker_process
from photon.node.client_host import ClientHost
from photon.run.checkpoint import save_server_state
from photon.run.kinds import FEDERATED
from photon.run.outer import outer_of
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.run.trackers import JsonlTracker
from photon.server.commits import Commits
from photon.server.loop import Effects, Server, initial_state

LOG = RESULTS / "round.jsonl"
CPU = torch.device("cpu")
CORPUS, ROW_LENGTH = EmbeddedCorpus(vocab_size=300, max_bytes=4_000_000), 32
"""Of data that is opened and never read."""
WAYS = ("overlapped", "sequential")
"""As Photon does it; and with each write waited for before anything else is done."""
MOMENTS = {
    "reset": ["fl.reset_optimizer=true"],
    "averaged": ["fl.aggregate_momenta=true"],
    "kept": ["fl.aggregate_momenta=false"],
}
"""What becomes of the inner moments -> its keys: thrown away, sent with the update, in bf16 each,
or kept by the client, in fp32.
"""
SENT = "fl.compression=bf16"
"""Uploads and moments in bf16, parameters whole: the setting of the bar for `device_busy`."""


@dataclass(frozen=True)
class Case:
    """What is asked for; seconds are those that the trainer takes for a client and round."""

    parameters: int
    seconds: float = 2.3
    clients: int = 8
    rounds: int = 2
    workers: int = 0
    threads: str = "auto"
    moments: str = "reset"
    way: str = "overlapped"

    @property
    def devices(self) -> int:
        return max(1, self.workers)


@dataclass(frozen=True)
class Figures:
    """What a run gave; seconds are of one round, those of `parts` of all devices together.

    Attributes:
        functions: seconds by part and function, most first.
        peak: of the server (or of all in one process), and of a worker, in payloads.
        digest: of the last parameters.
    """

    parameters: int
    payload_megabytes: float
    seconds: float
    device_busy: float
    parts: dict[str, float]
    functions: list[tuple[str, str, float]]
    peak: tuple[float, ...]
    digest: str


def shape(parameters: int) -> list[str]:
    """Keys of an MPT of so many parameters, to a row of its embedding."""
    width = max(16, int((0.68 * parameters / 144) ** 0.5) // 16 * 16)

    def keys(vocabulary: int) -> list[str]:
        return ["llm_config=mpt-125m", f"llm_config.max_seq_len={ROW_LENGTH}",
                f"llm_config.model.d_model={width}", f"llm_config.model.n_heads={width // 16}",
                f"llm_config.model.vocab_size={vocabulary}"]  # fmt: skip

    least = num_elements(parameters_of(empty_model(load_config(keys(300)).inner)))
    return keys(300 + max(0, round((parameters - least) / width)))


def configuration(case: Case, data: Path) -> Run:
    keys = [*shape(case.parameters), *MOMENTS[case.moments], f"photon.workers={case.workers}",
            f"photon.threads={case.threads}", SENT, f"fl.n_total_clients={case.clients}",
            f"fl.n_rounds={case.rounds + 1}", "fl.eval_period=null", "photon.device=cpu",
            "llm_config.local_steps=16ba", "llm_config.scheduler.schedulers.lr.t_warmup=1ba",
            "llm_config.global_train_batch_size=2", "llm_config.device_train_microbatch_size=1",
            f"dataset.train.root_local={data}"]  # fmt: skip
    run = resolve(load_config(keys), cores=num_cores(), accelerator=0, run_uuid="bench")
    return prepare(run, lambda line: None)[0]


def measure(case: Case, home: Path, data: Path) -> Figures:
    """Run the rounds in this process, and in workers of it.

    Args:
        home: an empty folder; the run comes to lie in it.
        data: the clients' rows, of `ROW_LENGTH`.
    """
    run = configuration(case, data)
    tokenizer, plain = RunData.of(*run.reading).tokenizer, run.model_dump(mode="json")
    with RunFolder.create(home / "run", plain, FEDERATED, tokenizer, {}) as folder:
        return_freed_memory()
        way = _waiting() if case.way == "sequential" else nullcontext()
        with (Watch() as watch, stand_in.standing_in(case.seconds, watch), _workers(case, home),
              way):  # fmt: skip
            ends, sizes, result = _serve(folder, run)
        workers = [Profile.load(path) for path in sorted((home / "profiles").glob("*.json"))]
    return _figures(case, watch.profile, workers, ends, sizes, result)


@contextmanager
def _waiting() -> Iterator[None]:
    """In this process nothing is written behind anything else."""
    train, add = ClientHost.train, Commits.add

    def trained(host: ClientHost, *arguments):
        update = train(host, *arguments)
        host.rest()
        futures.wait([update])
        return update

    def added(commits: Commits, *arguments) -> None:
        add(commits, *arguments)
        commits.settle()

    ClientHost.train, Commits.add = trained, added  # pyright: ignore
    try:
        yield
    finally:
        ClientHost.train, Commits.add = train, add


def _serve(folder: RunFolder, run: Run) -> tuple[list[float], tuple[int, int, int], str]:
    """When each round's record was there; elements and bytes of the parameters, and bytes of the
    tensors of an update; the digest of the last parameters.
    """
    ends: list[float] = []
    records: list[dict] = []
    lines = JsonlTracker(folder.metrics, "round", 0)

    def track(record) -> None:
        records.append(record)
        lines(record)
        ends.append(time.monotonic())

    with closing(local.local_engine(folder, run, CPU)) as engine:
        states = [
            initial_state(
                parameters_of(build_model(run.inner, run.seed)), outer_of(run.federation, 1)
            )
        ]
        save_server_state(folder.checkpoints, states[0])
        server = Server(
            run=run,
            checkpoints=folder.checkpoints,
            engine=engine,
            stop=StopRequest(),
            effects=Effects(validate=lambda state: {}, track=track, written=lambda: lines.last),
        )
        state = server.serve(states.pop())
    kinds = records[-1]["bytes_by_kind"]["up"]
    update = (kinds["gradient"] + kinds["moments"]) // len(records[-1]["accepted"])
    sizes = num_elements(state.params), num_bytes(state.params), update
    return ends, sizes, digest(state.params)


@contextmanager
def _workers(case: Case, home: Path) -> Iterator[None]:
    """Worker processes have the stand-in for a trainer too, and leave their profiles."""
    (home / "profiles").mkdir()
    os.environ |= {stand_in.SECONDS: str(case.seconds), stand_in.PROFILES: f"{home}/profiles"}

    photons, worker_process.COMMAND = worker_process.COMMAND, [sys.executable, stand_in.__file__]
    try:
        yield
    finally:
        worker_process.COMMAND = photons


def _figures(
    case: Case,
    server: Profile,
    workers: list[Profile],
    ends: list[float],
    sizes: tuple[int, int, int],
    result: str,
) -> Figures:
    begin, end = ends[0], ends[-1]
    elements, params, payload = sizes
    trainers, apart = (workers, server) if workers else ([server], None)
    idle = sum(one.idle_seconds(begin, end) for one in trainers)
    parts = parts_of(trainers, apart, begin, end)
    functions = functions_of([server, *workers], begin, end)
    peaks = [server.peak(begin, end) - params / 1e6]
    peaks += [max(one.peak(begin, end) for one in workers)] if workers else []
    return Figures(
        parameters=elements,
        payload_megabytes=payload / 1e6,
        seconds=(end - begin) / case.rounds,
        device_busy=1 - idle / (end - begin) / case.devices,
        parts={name: value / case.rounds for name, value in parts.items()},
        functions=[(*key, value / case.rounds) for key, value in functions.items()],
        peak=tuple(1e6 * peak / payload for peak in peaks),
        digest=result,
    )


def in_own_process(case: Case, folder: Path) -> Figures:
    """Measure it, with data that all cases share."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    with tempfile.TemporaryDirectory(dir=folder) as home:
        own = [*command, "--folder", home, "--data", f"{folder}/data"]
        ended = subprocess.run(own, stdout=subprocess.PIPE, check=True)
    return Figures(**json.loads(ended.stdout.splitlines()[-1]))


def compare(cases: list[Case], pairs: int, folder: Path) -> Iterator[tuple[Case, Figures, float]]:
    """Let the ways of a round take turns; seconds of the first way's round over each one's.

    Raises:
        SystemExit: they do not give the same parameters.
    """
    for _ in range(pairs):
        first: dict[str, Figures] = {}
        for case in cases:
            figures = in_own_process(case, folder)
            of_first = first.setdefault(case.moments, figures)
            if figures.digest != of_first.digest:
                raise SystemExit(f"{case.way} gives other parameters than {cases[0].way}")
            yield case, figures, of_first.seconds / figures.seconds


def _printed(found: tuple[Case, Figures, float]) -> tuple[Case, Figures]:
    case, figures, ratio = found
    parts = " | ".join(f"{figures.parts[name]:.1f}" for name in NAMES)
    peak = " + ".join(f"{value:.1f}" for value in figures.peak)
    print(f"| {case.moments} | {case.way} | {figures.payload_megabytes:.0f} | "
          f"{figures.seconds:.1f} | {figures.device_busy:.3f} | {parts} | {peak} | {ratio:.2f} |",
          flush=True)  # fmt: skip
    return case, figures


def record_of(case: Case, figures: Figures) -> dict[str, Any]:
    """The line of the log."""
    plain = asdict(figures)
    del plain["functions"]
    return {"moments": case.moments, "way": case.way, "clients": case.clients,
            "workers": case.workers, "client_seconds": case.seconds, **plain,
            "parameters": case.parameters}  # fmt: skip


def count(text: str) -> int:
    """125M as a number."""
    scale = {"K": 1e3, "M": 1e6, "B": 1e9}.get(text[-1:].upper())
    return round(float(text[:-1]) * scale if scale else float(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--parameters", type=count, default=count("125M"))
    parser.add_argument("--seconds", type=float, default=2.3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2, help="that are counted, after one")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", default="auto", help="of each trainer, and of the server")
    parser.add_argument("--moments", nargs="+", choices=list(MOMENTS), default=["reset"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--top", type=int, default=0, help="functions shown, by idle seconds")
    parser.add_argument("--folder", type=Path, help="where runs are written; default: temporary")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case = Case(**json.loads(arguments.case))
        print(json.dumps(asdict(measure(case, arguments.folder, arguments.data))))
        return
    if arguments.smoke:
        arguments.parameters, arguments.seconds, arguments.clients = 60_000, 0.05, 2
    cases = [
        Case(arguments.parameters, arguments.seconds, arguments.clients, arguments.rounds,
             arguments.workers, arguments.threads, moments, way)
        for moments in arguments.moments for way in arguments.ways
    ]  # fmt: skip
    print("| moments | way | payload MB | s a round | device_busy | "
          f"{' | '.join(NAMES)} | peak, payloads | ratio |")  # fmt: skip
    print("|---" * (len(NAMES) + 7) + "|")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        prepare_embedded(Path(folder, "data"), CORPUS, arguments.clients, ROW_LENGTH)
        measured = list(map(_printed, compare(cases, arguments.pairs, Path(folder))))
    for case, figures in measured if not arguments.smoke else ():
        append(LOG, record_of(case, figures))
    for case, figures in measured if arguments.top else ():
        print(f"\n{case.moments}, {case.way}: idle seconds a round by function")
        for part, function, seconds in figures.functions[: arguments.top]:
            print(f"{seconds:8.2f}  {part:<10}{function}")


if __name__ == "__main__":
    main()
