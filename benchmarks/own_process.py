"""An arm in a process of its own, so that each has the heap that its users have."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from training_arms import Arm, Size

from photon.machine.device import keep_freed_memory


def in_own_process(
    make: Callable[[str, Size], Arm], *, as_photon: bool = False
) -> Callable[[str, Size], Arm]:
    """The same arm, run by a process that lasts as long as this one.

    Args:
        as_photon: set up glibc's allocator as `photon train` does.
    """

    def spawned(family: str, size: Size) -> Arm:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, make, family, size, torch.get_num_threads(), as_photon)
        context.Process(target=_serve, args=arguments, daemon=True).start()
        theirs.close()

        def measure(steps: int):
            ours.send(steps)
            return ours.recv()

        return measure

    return spawned


def _serve(
    connection: Connection,
    make: Callable[[str, Size], Arm],
    family: str,
    size: Size,
    threads: int,
    as_photon: bool,
) -> None:
    torch.set_num_threads(threads)
    if as_photon:
        keep_freed_memory()
    arm = make(family, size)
    while True:
        try:
            connection.send(arm(connection.recv()))
        except EOFError:
            return
