"""A training that kills its process with -9 at a chosen moment."""

from __future__ import annotations

import os
import signal

import photon
from photon.run import artifact
from photon.server import commits as server
from photon.training.loop import Trainer


class Bomb:
    """Kills the process at its COUNT-th tick."""

    def __init__(self, count: int) -> None:
        self.left = count

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(self, function):
        def wrapped(*args, **kwargs):
            self.tick()
            return function(*args, **kwargs)

        return wrapped

    def after(self, function):
        def wrapped(*args, **kwargs):
            result = function(*args, **kwargs)
            self.tick()
            return result

        return wrapped

    def halfway(self, write_container):
        def wrapped(path, *args, **kwargs):
            write_container(path, *args, **kwargs)
            os.truncate(path, os.path.getsize(path) // 2)
            self.tick()
            return write_container(path, *args, **kwargs)

        return wrapped


PLACES = {
    "step": (Trainer, "_gradient", Bomb.before),
    "tensors written, manifest not": (artifact, "_write_manifest", Bomb.before),
    "manifest written": (artifact, "_write_manifest", Bomb.after),
    "in the middle of writing tensors": (artifact, "write_container", Bomb.halfway),
    "between rounds": (server, "prune_checkpoints", Bomb.after),
}


def arm(moment: str, count: int) -> None:
    """Wrap the function that the moment names."""
    owner, name, wrap = PLACES[moment]
    setattr(owner, name, wrap(Bomb(count), getattr(owner, name)))


def train(moment: str, count: int, kind: str, overrides: list[str]) -> str:
    """Train until the COUNT-th occurrence of the moment."""
    arm(moment, count)
    photon.train(overrides, centralized=kind == "centralized")
    return "survived: the moment did not occur so often"
