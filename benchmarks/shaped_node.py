"""A node process that writes down every step that it takes, whatever becomes of it afterwards.

    python benchmarks/shaped_node.py node LOG SOCKETS NAME CLIENT OVERRIDES...
    python benchmarks/shaped_node.py worker LOG SOCKET_FD RUN_FOLDER DEVICE FIRST_GPU    its worker

The log has a line as a round of the client is begun or gone on with, and one as each step ends; it
is appended to, so that nothing is lost when the processes are killed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from failure import node_process
from photon.node import course, worker, worker_process
from photon.node.pace import Pace
from photon.run.live import StepBeacon

Write = Callable[[str, int], None]


class CountedPace(Pace):
    """Tells of each step as it ends."""

    def __init__(self, write: Write, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._write = write

    def end_step(self) -> None:
        has_begun = self._due is not None
        super().end_step()
        if has_begun:
            self._write("step", 1)


def told_beacon(write: Write, *arguments: Any, **numbers: Any) -> StepBeacon:
    """A beacon, after telling of which round the steps are that follow."""
    write("round", arguments[2]["round"])
    return StepBeacon(*arguments, **numbers)


def logger(path: Path) -> Write:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    process = os.getpid()

    def write(what: str, number: int) -> None:
        line = {what: number, "at": time.monotonic(), "process": process}
        os.write(descriptor, json.dumps(line).encode() + b"\n")

    return write


def main(part: str, log: str, arguments: list[str]) -> int:
    if part == "node":
        worker_process.COMMAND = [sys.executable, __file__, "worker", log]
        sockets, name, clients, *overrides = arguments
        node_process.main(Path(sockets), name, clients, overrides)
        return 0
    write = logger(Path(log))
    course.Pace = partial(CountedPace, write)  # pyright: ignore
    course.StepBeacon = partial(told_beacon, write)  # pyright: ignore
    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
