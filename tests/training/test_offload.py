"""Copies of what is written to next, in memory that is used again once it is released."""

from __future__ import annotations

import torch

from photon.training.offload import Offload

CPU = torch.device("cpu")


def test_what_shares_the_memory_of_a_live_tensor_is_copied():
    live, offload = torch.arange(6.0), Offload(CPU)
    taken = [offload.take(live, live), offload.take(live[2:4].view(1, 2), live),
             offload.take(live, live, torch.bfloat16)]  # fmt: skip
    landed = offload.landed()
    landed.wait()
    live.zero_()
    assert taken[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert taken[1].tolist() == [[2, 3]]
    assert taken[2].dtype == torch.bfloat16
    assert taken[2].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_its_own_is_handed_on():
    live, own, offload = torch.zeros(3), torch.ones(3), Offload(CPU)
    assert offload.take(own, live) is own
    offload.landed().release()
    assert offload.take(live, live).data_ptr() != own.data_ptr(), "it is not ours to use again"


def test_memory_is_used_again_after_its_release_and_not_before():
    live, offload = torch.zeros(4), Offload(CPU)
    first, landed = offload.take(live, live), offload.landed()
    live += 1
    second, later = offload.take(live, live), offload.landed()
    assert first.data_ptr() != second.data_ptr()
    landed.release()
    landed.release()
    live += 1
    third, fourth = offload.take(live, live), offload.take(live, live)
    assert third.data_ptr() == first.data_ptr()
    assert len({one.data_ptr() for one in (second, third, fourth)}) == 3, "released once"
    assert second.tolist() == [1] * 4
    later.release()
    other = offload.take(torch.zeros(4, dtype=torch.int32), live)
    assert other.data_ptr() not in {one.data_ptr() for one in (second, third, fourth)}
