"""The wall-time model against numbers worked out elsewhere, and against its own limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from photon.core.walltime import (
    Exchange,
    LinkSpeed,
    forecast,
    hidden_share,
    local_steps_for,
    step_seconds,
)

GBIT = 1e9 / 8


def exchange(topology, size, rate, participants=8, **more) -> Exchange:
    link = LinkSpeed(up=rate, down=rate)
    return Exchange(topology=topology, participants=participants, bytes_up=size, bytes_down=size,
                    link=link, **{"server": link, **more})  # fmt: skip


@pytest.mark.parametrize(
    ("size", "gbit", "server", "ring", "step", "local", "slower_ddp", "slower_federated"),
    [  # 8 clients, links used to 90 %; seconds
        (0.5e9, 1, 71.1, 7.78, 3.89, 62.1, 32.3, 1.13),
        (0.25e9, 1, 35.6, 3.89, 3.89, 62.1, 32.3, 1.06),
        (0.5e9, 10, 7.11, 0.778, 0.389, 62.1, 4.13, 1.01),
        (0.25e9, 100, 0.356, 0.0389, 0.0389, 62.1, 1.31, 1.00),
        (5.2e9, 1, 740, 80.9, 40.4, 80.8, 251, 2.00),
        (2.6e9, 10, 37, 4.04, 4.04, 80.8, 26, 1.05),
    ],
)
def test_a_table_worked_out_by_hand(
    size, gbit, server, ring, step, local, slower_ddp, slower_federated
):
    rate = 0.9 * gbit * GBIT
    bf16 = 0.25e9 if size < 1e9 else 2.6e9
    assert exchange("server", size, rate).seconds == pytest.approx(server, rel=0.005)
    assert exchange("ring", size, rate).seconds == pytest.approx(ring, rel=0.005)
    ddp = forecast(rounds=500, local_steps=1, step_seconds=local / 500,
                   exchange=exchange("ring", bf16, rate))  # fmt: skip
    assert ddp.exchange_seconds == pytest.approx(step, rel=0.005)
    assert 1 / ddp.utilization == pytest.approx(slower_ddp, rel=0.01)
    run = forecast(rounds=1, local_steps=500, step_seconds=local / 500,
                   exchange=exchange("ring", size, rate))  # fmt: skip
    assert 1 / run.utilization == pytest.approx(slower_federated, rel=0.01)


def test_the_published_seven_billion_run():
    """Table 3 of the paper: 7B, four sites, 10 Gbit/s, ring: 147.9 h of which 97.2 h are
    communication, against 95.6 h of which 0.1 h are; a thousandth of the exchanges.
    """
    ring = exchange("ring", 2 * 6_658_859_008, 10 * GBIT, participants=4)
    assert ring.seconds == pytest.approx(16, rel=0.01)
    steps = round(97.2 * 3600 / ring.seconds)
    central = forecast(rounds=steps, local_steps=1, step_seconds=50.7 * 3600 / steps, exchange=ring)
    assert central.seconds / 3600 == pytest.approx(147.9, rel=0.001)
    assert central.utilization == pytest.approx(50.7 / 147.9, rel=0.001)
    rounds = round(0.1 * 3600 / ring.seconds)
    federated = forecast(rounds=rounds, local_steps=1, step_seconds=95.5 * 3600 / rounds,
                         exchange=ring)  # fmt: skip
    assert federated.seconds / central.seconds == pytest.approx(1 - 0.354, rel=0.002)
    assert central.total_bytes / federated.total_bytes == pytest.approx(1000, rel=0.06)


def test_the_slowest_link_decides():
    slow = LinkSpeed(up=1e6, down=4e6, latency=0.1)
    sent = {"participants": 4, "bytes_up": 2e6, "bytes_down": 8e6, "link": slow}
    alone = Exchange(topology="server", **sent, floor=3.0)
    assert alone.seconds == pytest.approx(3 + 8 / 4 + 2 / 1 + 2 * 0.1)
    narrow = Exchange(topology="server", **sent, server=LinkSpeed(up=8e6, down=2e6, latency=0.2))
    assert narrow.seconds == pytest.approx(4 * 8 / 8 + 4 * 2 / 2 + 2 * 0.3)
    assert alone.total_bytes == 4 * 10e6
    all_to_all = Exchange(topology="all_reduce", **sent)
    assert all_to_all.seconds == pytest.approx(3 * 2 / 1 + 0.1)
    assert all_to_all.total_bytes == 4 * 3 * 2e6
    ring = Exchange(topology="ring", **sent)
    assert ring.seconds == pytest.approx(2 * 2 * 3 / 4 + 6 * 0.1)
    assert ring.total_bytes == pytest.approx(2 * 3 * 2e6)


def test_one_participant_has_nobody_to_exchange_with():
    for topology in ("all_reduce", "ring"):
        only = exchange(topology, 1e9, 1e6, participants=1)
        assert (only.seconds, only.total_bytes) == (0.0, 0.0)


def test_sub_federations_and_overlap():
    outside, inside = exchange("server", 1e9, 1e9, 2), exchange("ring", 1e9, 1e10, 4)
    kwargs = {"rounds": 3, "local_steps": 10, "step_seconds": 0.5, "exchange": outside}
    flat = forecast(**kwargs)
    nested = forecast(**kwargs, inside=inside)
    assert nested.exchange_seconds == pytest.approx(flat.exchange_seconds + inside.seconds)
    assert nested.round_bytes == flat.round_bytes
    hidden = forecast(**kwargs, overlap=0.25)
    assert hidden.exchange_seconds == pytest.approx(0.75 * flat.exchange_seconds)
    covered = forecast(rounds=1, local_steps=1, step_seconds=1.0, exchange=outside, overlap=1.0)
    assert covered.exchange_seconds == pytest.approx(outside.seconds - 1.0), "no more than compute"


@pytest.mark.parametrize(("steps", "left"), [(0, 4.0), (3, 2.5), (8, 0.0), (10, 0.0)])
def test_steps_that_are_taken_ahead_hide_the_exchange(steps, left):
    """4 s of exchange beside 10 steps of 0.5 s."""
    link = exchange("server", 1e9, 1e9, 2)
    link = replace(link, bytes_up=link.bytes_up * 4 / link.seconds,
                   bytes_down=link.bytes_down * 4 / link.seconds)  # fmt: skip
    assert link.seconds == pytest.approx(4.0)
    share = hidden_share(link.seconds, steps * 0.5)
    found = forecast(rounds=1, local_steps=10, step_seconds=0.5, exchange=link, overlap=share)
    assert found.exchange_seconds == pytest.approx(left)
    assert hidden_share(0.0, 0.0) == 1.0


@pytest.mark.parametrize("utilization", [0.5, 0.9, 0.99])
def test_the_fewest_local_steps_for_a_utilization(utilization):
    link = exchange("server", 7e8, 1e8)

    def reached(count: int) -> float:
        return forecast(rounds=1, local_steps=count, step_seconds=0.3, exchange=link).utilization

    steps = local_steps_for(utilization, reached)
    assert reached(steps) >= utilization > reached(steps - 1)
    assert local_steps_for(utilization, lambda count: 1.0) == 1


@pytest.mark.parametrize("utilization", [0.0, 1.0, math.nan])
def test_no_share_of_the_time(utilization):
    with pytest.raises(ValueError, match="between 0 and 1"):
        local_steps_for(utilization, lambda count: 1.0)


def test_compute():
    assert step_seconds(6e9, 1000, 1e15, 0.5, devices=4) == pytest.approx(6e12 / 2e15)
