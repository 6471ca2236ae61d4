"""What a segment of training cost and how it went, as numbers for the metrics."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from photon.machine.device import peak_flops
from photon.model.flops import model_cost
from photon.training.loop import Trainer
from photon.training.state import Segment


class SegmentMeter:
    """Turns segments of one trainer into numbers.

    Args:
        trainer: its devices' peak and its model's arithmetic give the utilisation.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.device = trainer.device
        self.flops_per_token = model_cost(trainer.config).flops_per_token
        peak = peak_flops(trainer.device, trainer.config.precision)
        self.peak = peak and peak * trainer.world.size

    def __call__(self, segment: Segment, seconds: float) -> dict[str, Any]:
        """Metrics of a segment that took so long; the utilisation only where the peak is known."""
        tokens_per_second = segment.num_tokens / seconds
        record = {
            "train_loss": segment.train_loss,
            "gradient_norm": segment.gradient_norm,
            "learning_rate": segment.learning_rates[-1],
            "skipped_steps": len(segment.taken) - sum(segment.taken),
            "seconds": seconds,
            "tokens_per_second": tokens_per_second,
            "peak_memory": peak_memory(self.device),
        }
        if self.peak:
            record["flops_utilization"] = self.flops_per_token * tokens_per_second / self.peak
        return record


@dataclass(frozen=True, slots=True)
class Measured:
    """Numbers of some steps, which add up to those of a round.

    Attributes:
        steps: that they are of.
        numbers: as `SegmentMeter` gives them.
    """

    steps: int = 0
    numbers: dict[str, Any] = field(default_factory=dict)

    def and_then(self, steps: int, numbers: dict[str, Any]) -> Measured:
        """These steps and `steps` more: rates per second of all, the mean gradient norm of all."""
        if not self.steps:
            return Measured(steps, numbers)
        before, seconds = self.numbers, self.numbers["seconds"] + numbers["seconds"]
        joined = {**numbers, "seconds": seconds}
        for key in ("tokens_per_second", "flops_utilization"):
            if key in numbers:
                amount = before[key] * before["seconds"] + numbers[key] * numbers["seconds"]
                joined[key] = amount / seconds
        total = self.steps + steps
        norms = before["gradient_norm"] * self.steps + numbers["gradient_norm"] * steps
        joined["gradient_norm"] = norms / total
        return Measured(total, joined)


class Spent:
    """Seconds of a device by what they went into."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def on(self, name: str) -> Iterator[Callable[[], float]]:
        """Count what is done within; gives how long that has taken so far."""
        begun = time.monotonic()
        try:
            yield lambda: time.monotonic() - begun
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - begun

    @property
    def metrics(self) -> dict[str, float]:
        return {f"{name}_seconds": seconds for name, seconds in self._seconds.items()}


def peak_memory(device: torch.device) -> int:
    """Most bytes so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
