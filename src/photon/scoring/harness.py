"""Tasks of lm-eval (EleutherAI's evaluation harness) over our scorer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from photon.errors import ConfigError, DataError, PhotonError, install_with
from photon.evaluation.evaluate import Settings
from photon.evaluation.likelihood import Passes
from photon.machine.device import choose_device
from photon.scoring.candidate import Candidate, open_candidate, require_model
from photon.scoring.scores import ScoreFolder

INSTALL = f"--harness lm-eval needs the lm-eval package: {install_with('eval')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessResult:
    """What lm-eval says of one model.

    Attributes:
        tasks: of each task its metrics, as lm-eval names them.
        samples: of each task, rows as lm-eval logs them; only if asked for.
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
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        from photon.scoring.lm_adapter import PhotonLM
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    require_model(path)
    overrides = ["icl_tasks_config=empty", *overrides]
    candidate = open_candidate(path, overrides, choose_device("auto"), client)
    candidate.require_one_model()
    ScoreFolder(candidate.results, {}).require_writable()
    keys = candidate.config.scoring
    settings = Settings.of(keys, candidate.model.max_seq_len)
    passes = Passes(candidate.max_batch_tokens, candidate.config.inner.precision)
    manager = TaskManager(
        include_path=None if folder is None else str(folder), include_defaults=folder is None
    )
    _require_known(tasks, manager)
    run: Any = lm_eval.simple_evaluate
    adapter = PhotonLM(candidate.model, candidate.encoder, passes, settings.max_seq_len)
    try:
        found = run(
            model=adapter,
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=settings.limit,
            log_samples=samples,
            bootstrap_iters=1000,
        )
    except PhotonError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"lm-eval could not run {', '.join(tasks)}: {reason}") from error
    return _result(candidate, lm_eval.__version__, found or {})


def _require_known(tasks: Sequence[str], manager: Any) -> None:
    for task in tasks:
        if task not in manager.all_tasks:
            raise ConfigError(
                f"--tasks {task}: lm-eval knows no such task; `lm-eval ls tasks` lists them"
            )


def _result(candidate: Candidate, version: str, found: dict[str, Any]) -> HarnessResult:
    """Keep the metrics and write `lm_eval.json`."""
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
    ScoreFolder(candidate.results, {}).finish("lm_eval.json", plain)
    return result
