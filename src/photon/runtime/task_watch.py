"""Tasks that are scored while a run trains, whenever it validates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from photon.config.evaluation import IclTask
from photon.config.schema import Config
from photon.data.encode import Encoder
from photon.evaluation.evaluate import Settings, evaluate_task
from photon.evaluation.gauntlet import composites
from photon.evaluation.likelihood import Passes, tokens_of_a_pass
from photon.evaluation.scoring import TaskScore
from photon.evaluation.tasks import Row, find_file, read_rows
from photon.model.build import LanguageModel
from photon.runtime.trackers import Tracker


class TaskWatch:
    """The run's own task list; does nothing where it has none.

    Args:
        encoder: the run's.

    Raises:
        DataError: a task's file is missing or malformed: known before any training.
    """

    def __init__(self, config: Config, encoder: Encoder, device: torch.device) -> None:
        keys = config.icl_tasks_config
        self.gauntlet = config.eval_gauntlet_config.eval_gauntlet
        self.is_whole = keys.limit is None
        self.tasks: list[tuple[IclTask, list[Row]]] = [
            (task, read_rows(find_file(Path(keys.root_dir), task.dataset_uri), task))
            for task in keys.icl_tasks or ()
        ]
        length = min(keys.max_seq_len or config.llm_config.positions, config.llm_config.positions)
        self.settings = Settings(length, keys.limit, keys.parity)
        self.passes = Passes(
            tokens_of_a_pass(keys.max_batch_tokens, device), config.llm_config.precision
        )
        self.encoder = encoder
        self.found: dict[str, float] = {}

    def score(self, model: LanguageModel) -> None:
        """Score all tasks; the next record that is validated will carry the scores."""
        if not self.tasks:
            return
        encoder = self.encoder
        scores: dict[str, TaskScore] = {}
        for task, rows in self.tasks:
            for count in task.num_fewshot:
                scores[f"{task.label}/{count}-shot"], _ = evaluate_task(
                    model, encoder, task, rows, count,
                    settings=self.settings, passes=self.passes,
                )  # fmt: skip
        self.found = {f"metrics/{key}/accuracy": one.accuracy for key, one in scores.items()}
        if self.gauntlet is not None:
            self.found |= {
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
