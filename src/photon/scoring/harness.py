"""Tasks of lm-eval (EleutherAI's evaluation harness) over our scorer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from photon.config.compose import EVALUATION
from photon.config.overrides import keys_given
from photon.config.resolve import count_threads
from photon.errors import ConfigError, DataError, PhotonError, require_package
from photon.evaluation.evaluate import Settings
from photon.evaluation.likelihood import Passes
from photon.machine.device import choose_device, num_cores
from photon.scoring.candidate import Candidate, machine_of, open_candidate, require_model
from photon.scoring.scores import ScoreFolder

OF_HARNESS = (
    "icl_tasks_config.limit",
    "icl_tasks_config.max_seq_len",
    "icl_tasks_config.max_batch_tokens",
    "eval_gauntlet_config.destination_dir",
)
"""Keys of an evaluation that say nothing of its tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessResult:
    """What lm-eval says of one model.

    Attributes:
        tasks: of each task its metrics, as lm-eval names them.
        samples: of each task, rows as lm-eval logs them; only if asked for. They are in
            `lm_eval.samples.jsonl` too, each with the name of its task.
    """

    model: str
    folder: str
    checkpoint: dict[str, Any]
    lm_eval: str
    tasks: dict[str, dict[str, Any]]
    n: dict[str, int]
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def evaluate_by_harness(
    path: Path,
    tasks: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    num_fewshot: int | None = None,
    samples: bool = False,
    client: int | None = None,
) -> HarnessResult:
    """Score a model on tasks of lm-eval.

    Args:
        folder: of task files (YAML); None takes lm-eval's own, whose data comes from the hub.
        num_fewshot: examples in a prompt; None leaves it to the task.
        client: whose model, in a run with personalised layers.

    Raises:
        ConfigError: lm-eval is missing, or knows no such task.
        DataError: the data of a task cannot be had.
    """
    _require_no_lists(overrides)
    require_package("lm_eval", "eval", "--harness lm-eval needs the lm-eval package")
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    from photon.scoring.lm_adapter import PhotonLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    candidate = _opened(path, overrides, client)
    manager = TaskManager(
        include_path=None if folder is None else str(folder), include_defaults=folder is None
    )
    _require_known(tasks, manager)
    settings = Settings.of(candidate.config.scoring, candidate.model.max_seq_len)
    passes = Passes(candidate.max_batch_tokens, candidate.config.inner.precision)
    adapter = PhotonLM(candidate.model, candidate.encoder, passes, settings.max_seq_len)
    run: Any = lm_eval.simple_evaluate
    with _explained(tasks):
        found = run(
            model=adapter,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=settings.limit,
            log_samples=samples,
            bootstrap_iters=1000,
        )
    return _result(candidate, lm_eval.__version__, found or {})


def _opened(path: Path, overrides: Sequence[str], client: int | None) -> Candidate:
    """The model, on its device, if a harness can score it and its results have a place."""
    require_model(path)
    machine = machine_of(overrides)
    torch.set_num_threads(count_threads(machine, num_cores(), 0))
    candidate = open_candidate(path, overrides, choose_device(machine.device), client)
    candidate.require_one_model()
    ScoreFolder(candidate.results, {}).require_writable()
    return candidate


@contextmanager
def _explained(tasks: Sequence[str]) -> Iterator[None]:
    """A failure of lm-eval, or of the hub that it asks, as one of ours."""
    try:
        yield
    except PhotonError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"lm-eval could not run {', '.join(tasks)}: {reason}") from error


def _require_no_lists(overrides: Sequence[str]) -> None:
    """Refuse what says which tasks are scored, or how: lm-eval has its own."""
    for key, text in zip(keys_given(overrides), overrides, strict=True):
        if key.startswith(EVALUATION) and key not in OF_HARNESS:
            raise ConfigError(
                f"{text}: is not for --harness, whose tasks are those of --tasks; leave it out"
            )


def _require_known(tasks: Sequence[str], manager: Any) -> None:
    for task in tasks:
        if task not in manager.all_tasks:
            raise ConfigError(
                f"--tasks {task}: lm-eval knows no such task; `lm-eval ls tasks` lists them"
            )


def _result(candidate: Candidate, version: str, found: dict[str, Any]) -> HarnessResult:
    """Keep the metrics and write `lm_eval.json`, and the samples beside it."""
    sizes = {task: sizes["effective"] for task, sizes in found.get("n-samples", {}).items()}
    result = HarnessResult(
        model=candidate.name,
        folder=str(candidate.results),
        checkpoint=candidate.facts,
        lm_eval=version,
        tasks={task: dict(metrics) for task, metrics in found.get("results", {}).items()},
        n=sizes,
        samples=found.get("samples", {}),
    )
    plain = {key: value for key, value in asdict(result).items() if key != "samples"}
    folder = ScoreFolder(candidate.results, {})
    folder.finish("lm_eval.json", plain)
    if result.samples:
        rows = ({"task": task, **row} for task, found in result.samples.items() for row in found)
        folder.write_lines("lm_eval.samples.jsonl", rows)
    return result
