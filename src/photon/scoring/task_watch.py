"""Tasks that are scored while a run trains, whenever it validates."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from photon.config.evaluation import Gauntlet, IclTask, Scoring
from photon.config.llm import Inner
from photon.data.prepare.encode import Encoder
from photon.errors import DataError
from photon.evaluation.evaluate import Settings, check_task, evaluate_task
from photon.evaluation.gauntlet import composites
from photon.evaluation.likelihood import Passes, tokens_of_a_pass
from photon.evaluation.scoring import TaskScore
from photon.evaluation.tasks import TaskRow, find_file, read_rows
from photon.model.build import LanguageModel
from photon.run.run_data import RunData
from photon.run.run_tokens import encoder_of_data
from photon.run.trackers import Tracker

FAILURES = "task_failures"
"""Key of a record: tasks that could not be scored, and why."""


def check_tasks(tasks: Scoring, inner: Inner, data: RunData) -> None:
    """Tokenise the run's own tasks, so that what cannot be scored is known before any training.

    Raises:
        DataError: a task's file is missing or malformed, or a row cannot be put to the model.
    """
    encoder, settings = encoder_of_data(data), Settings.of(tasks, inner.positions)
    try:
        for task in tasks.tasks or ():
            rows = _read(tasks, task)
            for count in task.num_fewshot:
                check_task(encoder, task, rows, count, settings)
    except DataError as error:
        raise DataError(f"icl_tasks_config: {error}; mend it or leave the task out") from error


def _read(tasks: Scoring, task: IclTask) -> list[TaskRow]:
    return read_rows(find_file(Path(tasks.folder), task.dataset_uri), task)


class TaskWatch:
    """The run's own task list; does nothing where it has none.

    Args:
        warn: takes a line about a task that could not be scored.
    """

    def __init__(
        self,
        tasks: Scoring,
        gauntlet: Gauntlet | None,
        inner: Inner,
        encoder: Encoder,
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        self.gauntlet, self.is_whole = gauntlet, tasks.limit is None
        self.tasks, self.settings = tasks.tasks or [], Settings.of(tasks, inner.positions)
        self._read = functools.cache(lambda index: _read(tasks, self.tasks[index]))
        tokens = tokens_of_a_pass(tasks.max_batch_tokens, device)
        self.passes = Passes(tokens, inner.precision)
        self.encoder, self.warn = encoder, warn
        self.found: dict[str, Any] = {}

    def score(self, model: LanguageModel) -> None:
        """Score all tasks; the next record that is validated will carry the scores.

        Whatever happens in a task is noted there and in a line: a round is not lost by it.
        """
        scores: dict[str, TaskScore] = {}
        failures: dict[str, str] = {}
        for key, index, count in self._each():
            try:
                scores[key], _ = evaluate_task(
                    model, self.encoder, self.tasks[index], self._read(index), count,
                    settings=self.settings, passes=self.passes,
                )  # fmt: skip
            except Exception as error:
                failures[key] = f"{type(error).__name__}: {error}"[:500]
                self.warn(f"{key} is not scored, training goes on: {failures[key]}")
        self.found = {f"metrics/{key}/accuracy": one.accuracy for key, one in scores.items()}
        self.found |= self._composites(scores) | ({FAILURES: failures} if failures else {})

    def _each(self) -> Iterator[tuple[str, int, int]]:
        """Name, task and number of examples of every score."""
        for index, task in enumerate(self.tasks):
            for key, count in zip(task.keys, task.num_fewshot, strict=True):
                yield key, index, count

    def _composites(self, scores: Mapping[str, TaskScore]) -> dict[str, float]:
        if self.gauntlet is None or not self.tasks:
            return {}
        return {
            f"icl/metrics/eval_gauntlet/{one.name}": one.score
            for one in composites(self.gauntlet, scores, is_whole=self.is_whole)
            if one.score is not None
        }

    def adding_to(self, tracker: Tracker) -> Tracker:
        """A tracker whose validated records carry the scores."""

        def track(record: Mapping[str, Any]) -> None:
            if "val_loss" in record:
                record = {**record, **self.found}
                self.found = {}
            tracker(record)

        return track
