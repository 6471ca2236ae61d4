"""A node process that writes down every step that it takes, whatever becomes of it afterwards.

    python benchmarks/shaped_node.py LOG SOCKETS NAME CLIENT OVERRIDES...

The log has a line as a round of the client is begun or gone on with, and one as each step ends; it
is appended to, so that nothing is lost when the process is killed.
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

from failure.node_process import main
from photon.node import course
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

    def write(what: str, number: int) -> None:
        os.write(descriptor, json.dumps({what: number, "at": time.monotonic()}).encode() + b"\n")

    return write


if __name__ == "__main__":
    write = logger(Path(sys.argv[1]))
    course.Pace = partial(CountedPace, write)  # pyright: ignore
    course.StepBeacon = partial(told_beacon, write)  # pyright: ignore
    main(sys.argv[2:])
