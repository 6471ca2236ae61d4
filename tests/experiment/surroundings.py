"""What lies around training: data, stores, workers, trackers, tasks; felt where a run feels it."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from observers import CPU, Synthetic, resolved
from tokenizers import Tokenizer

import photon
from photon.cli.prepare import _prepare
from photon.config import Config
from photon.core.messages import StreamState
from photon.data.prepare import text
from photon.data.read import remote as remote_store
from photon.data.tokenizer import train_tokenizer
from photon.errors import DataError, PhotonError
from photon.experiment import course, runs
from photon.model.build import build_model, empty_model
from photon.node import engine as local
from photon.node import worker_process
from photon.node.microbatch import Trainers
from photon.run.run_data import RunData, cache_of
from photon.tracking import external
from photon.tracking.external import ExternalTrackers
from photon.training.parallel import _fully_shard, is_sharded
from photon.wire.transport import transport_of


def data_of(config: Config) -> RunData:
    return RunData.of(config.data, config.inner, config.seed)


def reads(config: Config) -> Any:
    """Rows of a client and of the validation, in order."""
    stream = data_of(config).stream(0)
    validation = data_of(config).rows("validation")
    order, _ = stream.indices(StreamState(), 12)
    return order.tolist(), len(stream.rows), len(validation)


def blocks(config: Config, monkeypatch: Any) -> Any:
    """Order of the rows of eight shards."""
    shards = Synthetic(32, 300)
    shards.shard_rows = [8] * 8
    monkeypatch.setattr(RunData, "rows", lambda self, part: shards)
    return data_of(config).stream(0).indices(StreamState(), 64)[0].tolist()


def store(part: str) -> Callable[[Config], Any]:
    """What brings shards from a store."""

    def found(config: Config) -> Any:
        storage = data_of(config)._storage(part)
        cache = cache_of(storage, Path("cache"))
        return cache and (cache.limit, cache.remote.url, cache.remote.retry, cache.remote.timeout)

    return found


def pool(config: Config, tmp: Path, monkeypatch: Any) -> Any:
    """What a worker is started with, who is given up after five rounds and nine seconds' silence,
    and the threads of this process.
    """
    started: list[Any] = []

    class Process:
        returncode = 0

        def __init__(self, command: Any, env: Any, **_: Any) -> None:
            started.append((env["OMP_NUM_THREADS"], command[-1]))

        def wait(self, timeout: float) -> int:
            return 0

    monkeypatch.setattr(worker_process.subprocess, "Popen", Process)
    run, threads = resolved(config), torch.get_num_threads()
    folder = SimpleNamespace(clients=tmp, path=tmp, lock_fd=0)
    try:
        made = local.local_engine(folder, run, CPU)  # pyright: ignore
        if not isinstance(made, local.WorkerPool):
            return torch.get_num_threads()
        for _ in range(5):
            made._refresh()
        made.selector.select = lambda timeout=None: []
        for worker in made.workers:
            worker.heard -= 9.0
        silent = len(list(made._replies()))
        made.close()
        return started, silent
    finally:
        torch.set_num_threads(threads)


def refusal(config: Config) -> Any:
    """The error that ends a run before it trains, or None."""
    try:
        photon.train(config)
    except PhotonError as error:
        return str(error)
    return None


def prepared(config: Config, tmp: Path, monkeypatch: Any) -> Any:
    """Bytes of a data set, its tokenizer and its folders, without what its manifest says."""
    monkeypatch.chdir(tmp)
    tokenizer = Tokenizer.from_file(f"{config.data.train.root}/tokenizer.json")
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save("tokenizer.json")
    train_tokenizer([text for text, *_ in DOCUMENTS], 270).save("other.json")
    for place, step in {"texts/a": 1, "texts/b": 2, "others": 3}.items():
        _write_documents(Path(place) / "part.jsonl", step)
    for split in ("train", "validation"):
        _write_documents(Path("split") / f"{split}.jsonl", 1)
    out = Path(tempfile.mkdtemp(dir=tmp)) / "data"
    _prepare(config.data, config.federation.population, config.inner.row_length, out)
    return {path.relative_to(out).as_posix(): path.read_bytes()
            for path in sorted(out.rglob("*")) if path.suffix == ".bin"
            or path.name == "tokenizer.json"}  # fmt: skip


DOCUMENTS = [(f"the cat {n} sat on mat {n * n} and ran to house {n % 7} " * 3,
              f"a dog {n} was in the garden of {n % 5} trees " * 4, f"kind {n % 4}")
             for n in range(40)]  # fmt: skip


def _write_documents(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(("text", "other", "kind"), one, strict=True)) for one in DOCUMENTS[::step]]
    path.write_text("".join(json.dumps({**row, "n": step}) + "\n" for row in rows))


def wanted_of_hub(config: Config, monkeypatch: Any) -> Any:
    """What the hub is asked for."""
    asked: list[Any] = []

    def ask(*what: Any) -> None:
        asked.append([str(one) for one in what])
        raise DataError("not here")

    monkeypatch.setattr(text, "HubSource", ask)
    monkeypatch.setattr(text, "has_split", lambda *_: True)
    with contextlib.suppress(DataError):
        _prepare(config.data, 2, config.inner.row_length, Path("nowhere"))
    return asked


def lands(config: Config, tmp: Path, monkeypatch: Any) -> Any:
    """The folder that a run's folder is in."""
    monkeypatch.chdir(tmp)
    return Path(photon.train(config).folder).parent.name


def told_wandb(config: Config, monkeypatch: Any) -> Any:
    """What `wandb.init` is given; None where there is no W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(external, "WandbTracker", lambda path, key, init, say: init)
    wanted = _trackers(config, Path())._wanted()
    return wanted["wandb"]("round", 0) if "wandb" in wanted else None


def _trackers(config: Config, folder: Path) -> ExternalTrackers:
    place: Any = SimpleNamespace(path=folder, kind="federated")
    board = config.inner.loggers.tensorboard
    return ExternalTrackers(place, "r", board, config.wandb_setup, True, print, print)


def mirror(config: Config, monkeypatch: Any) -> Any:
    """How the store of the mirror is opened."""
    asked: list[Any] = []
    monkeypatch.setattr(remote_store, "_open_store", lambda *how: (asked.append(how), None))
    course.mirroring(SimpleNamespace(path=Path()), resolved(config).but(name="r"))  # pyright: ignore
    return asked


def board(config: Config, tmp: Path) -> Any:
    """How far the curves of two records are on the disk before the run ends."""
    tracker: Any = _trackers(config, tmp)._wanted()["tensorboard"]("round", 0)
    for number in (1, 2, 3):
        tracker({"round": number, "loss": 1.0})
    written = tracker._position.read()
    tracker._writer.close()
    return written


def carrier(config: Config) -> Any:
    with closing(transport_of(config.machine.transport).server(config.machine, "r")) as side:
        return type(side).__name__


def sharding(config: Config, monkeypatch: Any) -> Any:
    """What FSDP2 is asked for."""
    asked: list[Any] = []
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda m, **how: asked.append(how))
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_: None)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    _fully_shard(empty_model(config.inner), config.inner, CPU)
    return [(how["reshard_after_forward"], how["mp_policy"]) for how in asked]


def job(config: Config) -> Any:
    """How two processes would share the model, and rows of a pass of one."""
    run = resolved(config)
    rows = Trainers(run.inner, run.federation, devices=2).microbatch(CPU)
    return is_sharded(run.inner, 2), rows


def unigram(config: Config, monkeypatch: Any) -> Any:
    def missing(data: RunData, population: int) -> None:
        raise DataError("no frequencies")

    monkeypatch.setattr(runs, "unigram_score", missing)
    try:
        return runs._unigram(resolved(config), SimpleNamespace(trains_elsewhere=False))  # pyright: ignore
    except DataError:
        return "refused"


def watched(config: Config, tmp: Path) -> Any:
    """Scores of the run's own tasks in the record of a validation, and tokens of the passes."""
    rows = {"pick": [{"query": f"x{n}", "choices": ["a", "b"], "gold": n % 2} for n in range(6)],
            "turn": [{"context_options": ["He", "She"], "continuation": f"ran {n}", "gold": n % 2}
                     for n in range(4)]}  # fmt: skip
    for place in (tmp, tmp / "other"):
        place.mkdir(exist_ok=True)
        for label, lines in rows.items():
            text = "".join(json.dumps(line) + "\n" for line in lines[: 2 if place == tmp else 9])
            (place / f"{label}.jsonl").write_text(text)
    run = resolved(config).but(scoring={"folder": str(tmp / config.scoring.folder)})
    model, shapes, records = build_model(run.inner, 0), [], []
    model.get_submodule("embedding").register_forward_pre_hook(
        lambda _, args: shapes.append(args[0].tolist())
    )
    job: Any = SimpleNamespace(device=CPU, warn=records.append)
    watch = course.task_watch(run, data_of(run), job)
    watch.score(model)
    watch.adding_to(records.append)({"val_loss": 0.0})
    return records, shapes
