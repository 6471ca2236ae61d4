"""A trainer that takes as long as a GPU would, leaves the processor alone, and hands over tensors.

python benchmarks/stand_in.py SOCKET_FD RUN_FOLDER DEVICE FIRST_GPU     a worker that has it
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from idle_time import Watch

from photon.core.tree import num_bytes
from photon.data.read.stream import JoinedStream
from photon.model.build import parameters_of
from photon.node import client_host, worker
from photon.training.loop import Trainer
from photon.training.schedule import lr_factor
from photon.training.state import Segment

SECONDS, PROFILES = "STAND_IN_SECONDS", "STAND_IN_PROFILES"
"""Variables that tell a worker how long a client takes, and where its profile is to lie."""
LOSS = 2.0


class StandIn(Trainer):
    """Has Photon's trainer's model, optimizer and states; only its steps are not computed.

    The memory of its model and moments stands for that of the device.

    Args:
        seconds: of a client's round.
        watch: is told when the device is busy.
    """

    def __init__(self, seconds: float, watch: Watch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seconds, self.watch = seconds, watch
        self._fresh: list[dict[Any, Any]] = []
        trees = [parameters_of(self.model), *self.optimizer.moments().values()]
        watch.profile.held = sum(map(num_bytes, trees)) / 1e6

    def train(
        self,
        stream: JoinedStream,
        steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Segment:
        begun = self.watch.begin_training()
        state, tokens, rates = self.state, self.config.tokens_per_step, []
        self._move(stream.streams[0].client)
        while len(rates) < steps and not should_stop():
            rates.append(self.config.optimizer.lr * lr_factor(self.config.schedule, state.step))
            state = state.after_step(tokens, state.streams, taken=True, scaled=False)
            due = begun + self.seconds * len(rates) / self.config.local_steps
            time.sleep(max(0.0, due - time.monotonic()))
        measured = torch.tensor([[LOSS * tokens], [1.0]], dtype=torch.float64).repeat(1, steps)
        segment = self._close(state, measured, rates, [True] * len(rates))
        self.state = segment.state
        self.watch.end_training(begun)
        return segment

    @torch.no_grad()
    def _move(self, client: int) -> None:
        """New parameters, another client's are others: a pass over memory, part of the seconds."""
        for value in self.model.parameters():
            value.mul_(1 - 1e-3 * (1 + client / 100))
        parts = self.optimizer._parts
        if all(part.state for part in parts):  # moments have been loaded
            self._fresh = []
        elif self._fresh:
            for part, its in zip(parts, self._fresh, strict=True):
                part.state.update(its)
        else:  # as a first step makes them; kept, since on a device that takes no time
            sizes = {"exp_avg": 1e-4, "exp_avg_sq": 1e-8}
            moments = self.optimizer.moments()
            self.optimizer.load(
                {m: {n: v.fill_(sizes[m]) for n, v in t.items()} for m, t in moments.items()}, 1
            )
            self._fresh = [dict(part.state) for part in parts]


@contextmanager
def standing_in(seconds: float, watch: Watch) -> Iterator[None]:
    """Hosts that are made in this process have the stand-in for a trainer."""
    photons = client_host.Trainer
    client_host.Trainer = partial(StandIn, seconds, watch)  # pyright: ignore
    try:
        yield
    finally:
        client_host.Trainer = photons


def main() -> int:
    with Watch() as watch, standing_in(float(os.environ[SECONDS]), watch):
        code = worker.main(sys.argv[1:])
    watch.profile.save(Path(os.environ[PROFILES]) / f"{os.getpid()}.json")
    return code


if __name__ == "__main__":
    sys.exit(main())
