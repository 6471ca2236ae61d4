"""Centralised training: the clients' trainer in segments, without an outer step."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from photon.config.schema import Config
from photon.data.stream import JoinedStream
from photon.evaluation.loss import LossReport
from photon.runtime.checkpoint import (
    naming_last_good,
    prune_checkpoints,
    save_train_state,
)
from photon.runtime.interrupt import StopRequest
from photon.runtime.measure import SegmentMeter
from photon.runtime.server import loss_record
from photon.runtime.trackers import Tracker
from photon.training.loop import Trainer
from photon.training.state import TrainState


def train_centralized(
    config: Config,
    trainer: Trainer,
    stream: JoinedStream,
    *,
    seconds: float,
    checkpoints: Path,
    validate: Callable[[], LossReport],
    track: Tracker,
    stop: StopRequest,
) -> tuple[TrainState, float]:
    """Take the steps that are left, saving and validating between segments.

    Args:
        trainer: holds the state to go on from.
        seconds: training time of the segments before.

    Returns:
        The last state and the training time of the whole run in seconds.

    Raises:
        Interrupted: a signal arrived; the current step ended and its state is saved.
    """
    measure = SegmentMeter(trainer)
    total = config.llm_config.max_duration
    assert total is not None  # resolved
    while trainer.state.step < total:
        step = trainer.state.step
        begun = time.monotonic()
        with naming_last_good(checkpoints):
            segment = trainer.train(stream, _next_boundary(config, step, total) - step, stop)
        state = segment.state
        elapsed = time.monotonic() - begun
        seconds += elapsed
        if state.step > step:
            record = {
                "step": state.step,
                "steps": total,
                "tokens": state.num_tokens,
                **measure(segment, elapsed),
                "data_wait_seconds": segment.data_wait,
            }
            due = _is_due(config, state.step, total)
            track(record | loss_record(validate() if due else None))
            _save(config, trainer, checkpoints, seconds)
        stop.raise_if_asked(f"stopped after step {state.step}")
    return trainer.state, seconds


def _save(config: Config, trainer: Trainer, checkpoints: Path, seconds: float) -> None:
    """Save the live state; several processes gather it together, the first one writes."""
    state = trainer.snapshot()
    if trainer.world.is_first:
        save_train_state(checkpoints, f"step_{state.step:06d}", state, {"seconds": seconds})
        prune_checkpoints(checkpoints, config.llm_config.save_num_checkpoints_to_keep)


def _next_boundary(config: Config, step: int, total: int) -> int:
    intervals = [config.llm_config.save_interval, config.llm_config.eval_interval or total]
    return min(total, *(step - step % interval + interval for interval in intervals))


def _is_due(config: Config, step: int, total: int) -> bool:
    interval = config.llm_config.eval_interval
    return step == total or bool(interval and step % interval == 0)
