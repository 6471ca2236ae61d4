"""A worker, of which the one at place 1 is slow, whatever this machine does beside it.

It is not done with its first client before the other worker has trained three, and takes as long
again twice. Each writes down whom it has trained.

python tests/node/uneven_worker.py SOCKET_FD RUN_FOLDER DEVICE FIRST_GPU
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from photon.node import client_host, worker
from photon.training.loop import Trainer

LONGEST = 300.0
RUN, PLACE = Path(sys.argv[2]), int(sys.argv[4])


def trained_by(place: int) -> list[int]:
    path = RUN / f"trained_by_{place}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + LONGEST
    while not holds():
        assert time.monotonic() < deadline, "the other worker does not come"
        time.sleep(0.01)


class Uneven(Trainer):
    def train(self, stream: Any, steps: int, should_stop: Any = lambda: False) -> Any:
        if self.state.steps_done == 0 and not trained_by(PLACE):
            self._first_turn()
        segment = super().train(stream, steps, should_stop)
        if segment.state.steps_done == self.config.local_steps:
            with open(RUN / f"trained_by_{PLACE}", "a") as file:
                file.write(f"{stream.streams[0].client}\n")
        return segment

    def _first_turn(self) -> None:
        begun = time.monotonic()
        if PLACE == 1:
            (RUN / "slow_one_is_here").touch()
            wait_until(lambda: len(trained_by(0)) == 3)
            time.sleep(2 * (time.monotonic() - begun))
        else:
            wait_until((RUN / "slow_one_is_here").exists)


if __name__ == "__main__":
    client_host.Trainer = Uneven
    sys.exit(worker.main(sys.argv[1:]))
