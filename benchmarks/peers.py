"""Photon beside its peers, each by its own code, in turns.

    python benchmarks/peers.py rounds [--sizes 1 100] [--arms flower torchft] [--pairs 1]
    python benchmarks/peers.py diloco      DiLoCo in plain torch: trajectory, time of a round
    python benchmarks/peers.py trainer     Hugging Face Trainer: a step
    python benchmarks/peers.py scores DATA     lm-eval: scoring; DATA is the Eval Gauntlet's folder
    python benchmarks/peers.py table       what the log has
    python benchmarks/peers.py --smoke     tiny, without processes; nothing is kept

`rounds` needs the extra `flower`, and torchft and hivemind from the package index; one that is not
there is named in the log with the reason. What the log has already is not measured again, so that a
call can be stopped and repeated. Processor time is what a machine with other work says best.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import peer_diloco
import torch
from peer_table import table
from plain_diloco import Recipe
from records import RESULTS, append, lines

from photon.config import load_config
from photon.data.prepare.embedded import prepare_embedded

LOG = RESULTS / "peers.jsonl"
PACKAGES = {"flower": "flwr", "flower, numpy": "flwr", "torchft": "torchft", "hivemind": "hivemind",
            "trainer": "accelerate", "scores": "lm_eval"}  # fmt: skip
"""What an arm imports."""
SHAPE = ("llm_config.model.d_model=128", "llm_config.model.ffn_hidden_size=352",
         "llm_config.model.n_heads=4", "llm_config.model.n_layers=2",
         "llm_config.max_seq_len=64", "llm_config.global_train_batch_size=8")  # fmt: skip
"""Of the model that DiLoCo trains; the tests' own is so small that only overhead is seen."""

Record = dict[str, Any]


def missing(arm: str) -> str | None:
    """Why an arm cannot run here; None: it can."""
    try:
        importlib.import_module(PACKAGES.get(arm, "photon"))
    except Exception as error:  # a peer may be built for another torch, or another Python
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def rounds(arguments: argparse.Namespace, done: Sequence[Record]) -> Iterator[Record]:
    """Processes that move a model between four sites; Photon's first in every other pair."""
    from peer_arms import ARMS
    from peer_rounds import measure

    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            case = _case(arguments, size, Path(folder))
            for pair in range(arguments.pairs):
                for arm in ("photon", *arguments.arms)[:: -1 if pair % 2 else 1]:
                    key = {"part": "rounds", "peer": arm, "megabytes": size, "pair": pair}
                    if _has(done, key):
                        continue
                    if reason := missing(arm):
                        yield {**key, "missing": reason}
                        continue
                    with tempfile.TemporaryDirectory(dir=folder) as home:
                        figures = measure(ARMS[arm], case, Path(home))
                    yield {**key, "clients": case.clients, **asdict(figures)}


def _case(arguments: argparse.Namespace, size: float, folder: Path):
    """Rows that nobody reads, and the sizes of Photon's tensors."""
    from peer_rounds import Case
    from round import CORPUS, ROW_LENGTH, shape

    from photon.model.build import empty_model, parameters_of

    prepare_embedded(folder / "data", CORPUS, arguments.clients, ROW_LENGTH)
    model = empty_model(load_config(shape(round(size * 1e6 / 4))).inner)
    shapes = {name: list(value.shape) for name, value in parameters_of(model).items()}
    (folder / "shapes.json").write_text(json.dumps(shapes))
    return Case(size, arguments.clients, arguments.rounds, folder / "data",
                folder / "shapes.json")  # fmt: skip


def diloco(arguments: argparse.Namespace, done: Sequence[Record]) -> Iterator[Record]:
    """Whole trajectories; the first round of each is not counted."""
    recipe = Recipe(rounds=arguments.rounds + 1, local_steps=arguments.steps)
    shape = () if arguments.smoke else SHAPE
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = f"dataset.train.root_local={folder}/data"
        given = [*peer_diloco.keys(recipe, *shape), root, f"photon.saving_path={folder}/runs"]
        config = load_config(given)
        embedded, length = config.data.embedded, config.inner.row_length
        prepare_embedded(Path(folder, "data"), embedded, peer_diloco.CLIENTS, length)
        for pair in range(arguments.pairs):
            key = {"part": "diloco", "peer": "plain torch", "pair": pair}
            if not _has(done, key):
                yield key | _beside(config, recipe, plain_first=pair % 2 == 1)


def _beside(config: Any, recipe: Recipe, *, plain_first: bool) -> Record:
    plain = peer_diloco.plain(config, recipe) if plain_first else None
    ours = peer_diloco.ours(config)
    plain = plain or peer_diloco.plain(config, recipe)
    out: Record = {"rounds": recipe.rounds, "local_steps": recipe.local_steps}
    for who, ran in (("our", ours), ("peer", plain)):
        out[f"{who}_cpu_seconds"] = statistics.median(s.cpu for s in ran.seconds)
        out[f"{who}_seconds"] = statistics.median(s.wall for s in ran.seconds)
    return out | {"losses": ours.losses} | peer_diloco.gap(ours, plain)


def trainer(arguments: argparse.Namespace, done: Sequence[Record]) -> Iterator[Record]:
    """Steps, each arm in its own process, as users run it."""
    from train_step import COMPARISONS, compare
    from training_arms import FAMILIES, SMALL

    found = next(c for c in COMPARISONS if "own process" in c.name)
    for family in FAMILIES:
        key = {"part": "trainer", "peer": "Hugging Face Trainer", "family": family}
        if _has(done, key):
            continue
        if reason := missing("trainer"):
            yield {**key, "missing": reason}
        else:
            short = replace(found, turns=arguments.turns)
            yield {**compare(short, family, SMALL, arguments.pairs), **key}


def scores(arguments: argparse.Namespace, done: Sequence[Record]) -> Iterator[Record]:
    """Answers to the same requests, ours and lm-eval's."""
    for task in arguments.tasks:
        key = {"part": "scores", "peer": "lm-eval", "task": task}
        if _has(done, key):
            continue
        reason = missing("scores") or (None if arguments.data else "no DATA was given")
        if reason:
            yield {**key, "missing": reason}
            continue
        import evaluate

        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            work, data = Path(folder), arguments.data
            run = evaluate.make_run(work, data, "llama-tiny", None)
            ours, theirs = evaluate.our_model(run), evaluate.their_models(run, work / "hf")
            tasks = evaluate.make_tasks(work / "tasks", data)
            requests = evaluate.requests_of(task, tasks, 0, arguments.rows)
            yield {**key, **evaluate.compare(requests, ours, theirs, arguments.pairs)}


PARTS = {"rounds": rounds, "diloco": diloco, "trainer": trainer, "scores": scores}


def _has(done: Sequence[Record], key: Mapping[str, Any]) -> bool:
    return any(
        "missing" not in one and all(one.get(k) == v for k, v in key.items()) for one in done
    )


def version(arm: str) -> dict[str, str]:
    """Of the package behind an arm."""
    package = PACKAGES.get(arm)
    try:
        return {"package": f"{package} {metadata.version(package)}"} if package else {}
    except metadata.PackageNotFoundError:
        return {}


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=[*PARTS, "table"])
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.0, 100.0], help="megabytes")
    parser.add_argument("--arms", nargs="+", choices=list(PACKAGES)[:4], default=list(PACKAGES)[:4])
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="that are counted, after one")
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=16, help="local ones, of DiLoCo")
    parser.add_argument("--turns", type=int, default=5, help="of the steps of a Trainer at a time")
    parser.add_argument("--tasks", nargs="+", default=["arc_easy", "lambada_openai"])
    parser.add_argument("--rows", type=int, default=50, help="of each task")
    parser.add_argument("--folder", type=Path, help="where runs are written; default: temporary")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args(given)
    if arguments.smoke:
        arguments.part, arguments.rounds, arguments.steps, arguments.pairs = "diloco", 1, 2, 1
    elif arguments.part is None:
        parser.error("which part? or --smoke")
    return arguments


def main(given: Sequence[str] | None = None) -> None:
    arguments = parsed(given)
    done = [] if arguments.smoke else lines(LOG)
    if arguments.part == "table":
        print(table(done))
        return
    torch.set_num_threads(1)
    new: list[Record] = []
    for found in PARTS[arguments.part](arguments, done):
        facts = {**version(found["peer"]), "load": round(os.getloadavg()[0], 1)}
        new.append({**found, **facts})
        if not arguments.smoke:
            append(LOG, new[-1])
    print(table([*done, *new]))


if __name__ == "__main__":
    main()
