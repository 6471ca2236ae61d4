"""`photon node` whose clients answer at once: python benchmarks/peer_node.py node OPTIONS..."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from photon.cli.main import main
from photon.config.resolve import Run
from photon.core.messages import ClientState, RoundPlan, StreamState, Update
from photon.node.hosted_run import HostedRun
from photon.run.base import Base
from photon.run.checkpoint import load_update, save_answer

MOVED = 1e-4


class Answering:
    """An engine whose clients have moved each parameter a little, and kept that durably."""

    devices = 1

    def __init__(self, clients: Path, run: Run) -> None:
        self.clients, self.tokens = clients, run.inner.tokens_per_step

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Iterator[Update]:
        for client in waiting:
            gradient = {name: value * MOVED for name, value in base.sent.params.items()}
            update = Update(
                run=plan.instructions[client].run,
                round=plan.round,
                client=client,
                gradient=gradient,
                moments={},
                num_tokens=self.tokens,
                num_steps=1,
                base_digest=plan.base_digest,
                metrics={"train_loss": 1.0},
            )
            kept = ClientState(round=plan.round, stream=StreamState())
            yield load_update(save_answer(self.clients, update, kept))

    def close(self) -> None:
        """Nothing to end."""


if __name__ == "__main__":
    torch.set_num_threads(1)
    HostedRun.open = partial(  # pyright: ignore
        HostedRun.open, make_engine=lambda folder, run, device: Answering(folder.clients, run)
    )
    sys.exit(main())
