"""Centralised training: the clients' trainer in segments, without an outer step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from photon.config.llm import Inner
from photon.data.read.stream import JoinedStream
from photon.evaluation.loss import perplexity
from photon.machine.device import training_memory_kept
from photon.machine.interrupt import StopRequest
from photon.node.measure import SegmentMeter
from photon.run.live import Beacon, StepBeacon
from photon.run.trackers import Tracker
from photon.training.loop import Trainer
from photon.training.state import Segment, TrainState


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What is done with the world between two segments.

    Attributes:
        validate: gives the validation keys of a record.
        commit: saves the trainer's state, given the training time so far in seconds.
        beacon: says how far training is between two records.
    """

    validate: Callable[[], dict[str, Any]]
    track: Tracker
    commit: Callable[[float], None]
    beacon: Beacon


def train_centralized(
    inner: Inner,
    trainer: Trainer,
    stream: JoinedStream,
    *,
    seconds: float,
    stop: StopRequest,
    effects: Effects,
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
    total = inner.max_steps
    assert total is not None  # resolved
    watched = StepBeacon(
        effects.beacon,
        stop,
        {},
        done=trainer.state.step,
        total=total,
        tokens=inner.tokens_per_step,
    )
    while trainer.state.step < total:
        step = trainer.state.step
        begun = time.monotonic()
        with training_memory_kept():
            segment = trainer.train(stream, _next_boundary(inner, step, total) - step, watched)
        state = segment.state
        elapsed = time.monotonic() - begun
        seconds += elapsed
        if state.step > step:
            record = _record(segment, total, measure(segment, elapsed))
            due = _is_due(inner, state.step, total)
            effects.track(record | (effects.validate() if due else {}))
            effects.commit(seconds)
        stop.raise_if_asked(f"stopped after step {state.step}")
    return trainer.state, seconds


def _record(segment: Segment, total: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": segment.state.step,
        "steps": total,
        "tokens": segment.state.num_tokens,
        **measured,
        "train_perplexity": perplexity(segment.train_loss),
        "data_wait_seconds": segment.data_wait,
    }


def _next_boundary(inner: Inner, step: int, total: int) -> int:
    intervals = [inner.segment_steps, inner.validation_interval or total]
    return min(total, *(step - step % interval + interval for interval in intervals))


def _is_due(inner: Inner, step: int, total: int) -> bool:
    interval = inner.validation_interval
    return step == total or bool(interval and step % interval == 0)
