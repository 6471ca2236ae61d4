"""Work on tensors, spread over the cores, whose bits do not depend on how many there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")

_ONE_AT_A_TIME = threading.Lock()


def over_cores(begin: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job]) -> list[Result]:
    """What comes of each job, in their order, from as many threads as PyTorch has.

    Within a job PyTorch and its BLAS have one thread, so that a sum has the same bits whatever the
    number. A job must not call this again.

    Args:
        begin: gives what does a job, once for each thread, which may so keep buffers.
    """
    with _ONE_AT_A_TIME:
        count = torch.get_num_threads()
        try:
            return _spread(begin, jobs, min(count, len(jobs)))
        finally:
            torch.set_num_threads(count)


def _spread(
    begin: Callable[[], Callable[[Job], Result]], jobs: Sequence[Job], threads: int
) -> list[Result]:
    here = threading.local()

    def prepare() -> None:
        torch.set_num_threads(1)
        here.work = begin()

    if threads < 2:
        prepare()
        return [here.work(job) for job in jobs]
    with ThreadPoolExecutor(threads, initializer=prepare) as pool:
        return list(pool.map(lambda job: here.work(job), jobs))
