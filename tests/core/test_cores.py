"""Jobs on all cores: their order, their threads, their errors."""

from __future__ import annotations

import threading

import pytest
import torch

from photon.core.cores import over_cores


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_jobs(threads):
    assert over_cores(lambda: lambda job: job * job, range(50)) == [n * n for n in range(50)]
    assert over_cores(lambda: lambda job: job, []) == []


def test_a_job_has_one_thread_and_the_caller_keeps_its_own(threads):
    assert set(over_cores(lambda: lambda _: torch.get_num_threads(), range(9))) == {1}
    assert torch.get_num_threads() == threads
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [threads]


def test_each_thread_begins_once_and_they_work_side_by_side(threads):
    met = threading.Barrier(threads, timeout=10)
    begun = []

    def begin():
        begun.append(threading.get_ident())
        return lambda _: met.wait()

    over_cores(begin, range(threads))
    assert len(begun) == len(set(begun)) == threads


def test_an_error_of_a_job_is_the_callers_and_the_next_call_works(threads):
    with pytest.raises(ZeroDivisionError):
        over_cores(lambda: lambda job: 1 // job, range(5))
    assert torch.get_num_threads() == threads
    assert over_cores(lambda: abs, [-1, -2]) == [1, 2]
