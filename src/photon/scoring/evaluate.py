"""`evaluate`: a model from its checkpoint to its numbers."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import photon
from photon.config.evaluation import IclTask, Scoring
from photon.config.overrides import parse_override
from photon.config.resolve import count_threads
from photon.data.manifest import finite
from photon.data.tokenization import KEY
from photon.errors import ConfigError, DataError, PhotonError
from photon.evaluation.evaluate import Settings, evaluate_task
from photon.evaluation.gauntlet import Composite, composites
from photon.evaluation.likelihood import Passes
from photon.evaluation.loss import Share
from photon.evaluation.scoring import TaskScore
from photon.evaluation.tasks import TaskRow, find_file, read_rows
from photon.machine.device import num_cores
from photon.machine.process_group import from_first, process_group
from photon.say import Say
from photon.scoring.candidate import Candidate, machine_of, open_candidate, require_model
from photon.scoring.losses import LossScore, losses_to_score
from photon.scoring.scores import Finished, ScoreFolder
from photon.training.parallel import World

TaskCallback = Callable[[str, float], None]
"""Takes what is being scored, and the share of the whole evaluation that is done."""

Loaded = tuple[IclTask, int, list[TaskRow], str]
"""A task, how many examples its prompts have, its rows, and the digest of its file."""

ToDo = tuple[dict[str, Any], str, Callable[[Passes], Any], float]
"""Where a score goes, its name, how it is had, and about how much text goes through the model."""

SUITE = ("icl_tasks_config=tasks_v0.3", "eval_gauntlet_config=eval_gauntlet_v0.3")
"""What is scored if nothing is asked for and the data is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Numbers of one model; `results.json` holds the same fields, and earlier numbers too.

    Attributes:
        model, folder: its name; where results.json is.
        checkpoint: digest, round, step, tokens.
        tokenizer: its digest.
        settings: prompt length, rows, parity, precision.
        losses: by the name of the text or part.
        tasks: by `label/k-shot`, each with the digest of its data.
        composites: averages, then categories.
        failures: what could not be scored, and why.
    """

    model: str
    folder: str
    photon: str
    checkpoint: dict[str, Any]
    tokenizer: str
    settings: dict[str, Any]
    losses: dict[str, LossScore] = field(default_factory=dict)
    tasks: dict[str, Finished] = field(default_factory=dict)
    composites: list[Composite] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def as_json(found: Evaluation) -> dict[str, Any]:
    """The fields as JSON values; what is not a finite number is null."""
    return finite(asdict(found))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to score besides the tasks.

    Attributes:
        texts: files.
        per_client: each client's own held-out part, too.
        samples: keep what the model did with every row.
        fresh: score again what is scored already.
        client: whose model, in a run with personalised layers.
    """

    texts: tuple[Path, ...] = ()
    per_client: bool = False
    samples: bool = False
    fresh: bool = False
    client: int | None = None


def evaluate(
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    wanted: Wanted = Wanted(),
    say: Say = lambda line: None,
    progress: TaskCallback = lambda what, done: None,
) -> list[Evaluation]:
    """Score models one after another; what cannot be scored is a failure in the result.

    Args:
        paths: run folders, checkpoints, folders of `transformers`.
        overrides: task lists, composites, and keys that leave the model alone. Without any task
            list the Eval Gauntlet v0.3 is scored if its data is there.

    Raises:
        CheckpointError: no model at a path.
        ConfigError: a bad override, or two tasks of one name.
    """
    for path in paths:
        require_model(path)
    tell = (lambda line: None) if wanted.texts else say  # they are what was asked for
    overrides, found = _with_suite(overrides, tell), []
    machine = machine_of(overrides)
    torch.set_num_threads(count_threads(machine, num_cores(), 0))
    with process_group(machine.device) as (world, device):
        for number, path in enumerate(paths):
            candidate = open_candidate(path, overrides, device, wanted.client)
            part = _part(progress, number / len(paths), 1 / len(paths))
            found.append(_Run(candidate, wanted, world, part)())
    return found


def _part(progress: TaskCallback, start: float, size: float) -> TaskCallback:
    return lambda what, done: progress(what, start + size * done)


def _with_suite(overrides: Sequence[str], say: Say) -> Sequence[str]:
    """The standard suite, if no tasks are named and its data is there."""
    given = [parse_override(text) for text in overrides]
    if {one.key_or_group for one in given} & {"icl_tasks_config", "icl_tasks_config.icl_tasks"}:
        return overrides
    roots = [one.value() for one in given if one.key_or_group == "icl_tasks_config.root_dir"]
    root = Path((roots[-1] if roots else None) or Scoring().folder)
    if any((root / place).is_dir() for place in ("eval/local_data", "world_knowledge")):
        return [*SUITE, *overrides]
    say(
        f"no task data in {root}, so only losses: get it with scripts/prepare_eval_dataset.sh, or "
        "set icl_tasks_config.root_dir"
    )
    return overrides


class _Run:
    """The evaluation of one model."""

    def __init__(
        self, candidate: Candidate, wanted: Wanted, world: World, progress: TaskCallback
    ) -> None:
        self.candidate, self.wanted, self.world = candidate, wanted, world
        self.progress = progress if world.is_first else lambda what, done: None
        config = candidate.config
        self.tasks = config.scoring
        if self.tasks.tasks:
            candidate.require_one_model()
        positions, asked = candidate.model.max_seq_len, self.tasks.max_positions
        if asked and asked > positions:
            raise ConfigError(
                f"icl_tasks_config.max_seq_len={asked}: {candidate.name} has {positions} positions"
            )
        self.settings = Settings.of(self.tasks, positions)
        self.passes = Passes(
            max_tokens=candidate.max_batch_tokens,
            precision=config.inner.precision,
            share=Share(world.rank, world.size, world.sum),
        )
        shown = {**asdict(self.settings), "precision": self.passes.precision}
        identity = {
            "checkpoint": candidate.facts["digest"],
            "settings": shown,
            "tokenizer": candidate.tokenizer_digest,
            KEY: candidate.encoder.facts.as_json(),
        }
        self.folder = ScoreFolder(candidate.results, identity)
        self.result = Evaluation(
            model=candidate.name,
            folder=str(candidate.results),
            photon=photon.__version__,
            checkpoint=candidate.facts,
            tokenizer=candidate.tokenizer_digest,
            settings=shown,
        )

    def __call__(self) -> Evaluation:
        from_first(self.world, self.folder.require_writable)
        todo = self._todo()
        done, total = 0.0, sum(work for *_, work in todo) or 1.0
        for into, key, compute, work in todo:
            passes = self._told(key, _part(self.progress, done / total, work / total))
            self._keep(into, key, functools.partial(compute, passes))
            done += work
            self.progress(key, done / total)
        return self._finish()

    def _todo(self) -> list[ToDo]:
        """Losses, then tasks."""
        result, texts = self.result, self.wanted.texts
        loaded = self._load()
        losses = losses_to_score(self.candidate, texts, self.wanted.per_client)
        return [
            *((result.losses, name, loss, loss.work) for name, loss in losses.items()),
            *(
                (result.tasks, key, functools.partial(self._score, key, entry), _work(entry))
                for key, entry in loaded.items()
            ),
        ]

    def _told(self, key: str, progress: TaskCallback) -> Passes:
        return replace(self.passes, progress=lambda share: progress(key, share))

    def _keep(self, into: dict[str, Any], key: str, compute: Callable[[], Any]) -> None:
        """A result, or the reason why there is none; the others still run."""
        try:
            into[key] = compute()
        except PhotonError as error:
            self.result.failures[key] = str(error).removeprefix(f"{key}: ")

    def _load(self) -> dict[str, Loaded]:
        """Every evaluation with its rows and their digest; what cannot be read is a failure."""
        loaded: dict[str, Loaded] = {}
        for task in self.tasks.tasks or ():
            try:
                path = find_file(Path(self.tasks.folder), task.dataset_uri)
                rows = read_rows(path, task)
            except DataError as error:
                self.result.failures.update(dict.fromkeys(task.keys, str(error)))
                continue
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            for key, count in zip(task.keys, task.num_fewshot, strict=True):
                loaded[key] = (task, count, rows, digest)
        return loaded

    def _score(self, key: str, entry: Loaded, passes: Passes) -> Finished:
        task, count, rows, data = entry
        facts = {"task": {**task.model_dump(mode="json"), "num_fewshot": count}, "data": data}
        facts["task"].pop("dataset_uri")
        if (found := self._finished(key, facts)) is not None:
            return found
        begun = time.monotonic()
        score, samples = evaluate_task(
            self.candidate.model, self.candidate.encoder, task, rows, count,
            settings=self.settings, passes=passes,
        )  # fmt: skip
        done = Finished(score, data, round(time.monotonic() - begun, 2))
        if self.world.is_first:
            self.folder.write(key, facts, done, samples if self.wanted.samples else ())
        return done

    def _finished(self, key: str, facts: dict[str, Any]) -> Finished | None:
        """What an earlier evaluation found; the first process reads it for all."""
        if self.wanted.fresh:
            return None

        def read() -> dict[str, Any] | None:
            found = self.folder.read(key, facts, samples=self.wanted.samples)
            return found and asdict(found)

        found = from_first(self.world, read)
        return found and Finished(TaskScore(**found["score"]), found["data"], found["seconds"])

    def _finish(self) -> Evaluation:
        gauntlet = self.candidate.config.composites.gauntlet
        result = self.result
        if gauntlet is not None and self.tasks.tasks:
            scores = {key: done.score for key, done in result.tasks.items()}
            whole = self.settings.limit is None
            result = replace(result, composites=composites(gauntlet, scores, is_whole=whole))
        if self.world.is_first:
            self.folder.finish("results.json", as_json(result), fresh=self.wanted.fresh)
            if self.wanted.samples:
                self.folder.join_samples(result.tasks)
        return result


def _work(entry: Loaded) -> float:
    """About how many characters go through the model."""
    _, count, rows, _ = entry
    some = rows[:: max(1, len(rows) // 50)]
    length = sum(len(str(row.fields)) for row in some) / len(some)
    return len(rows) * length * (count + 1)
