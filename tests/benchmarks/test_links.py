"""Seconds to a loss are counted right, and what is measured is not measured again."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def curve(*losses: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * n, "val_loss": loss} for n, loss in enumerate(losses, 1)]


def test_seconds_to_a_loss_are_steps_times_seconds(bench):
    """All come to 4.0. DDP is there after 15 steps of 2 s, the others after 30 of half a second."""
    table = bench("links_table")
    assert table.steps_to(4.0, curve(5.0, 3.0)) == 15.0
    assert table.steps_to(5.5, curve(5.0, 3.0)) == 10.0
    assert table.steps_to(2.0, curve(5.0, 3.0)) is None
    place = {"mbit": 10.0, "milliseconds": 1.0, "step_bytes": 1e6, "utilization": 0.5}
    records = [{"part": "curve", "arm": "DDP", "curve": curve(5.0, 3.0)}]
    records += [{"part": "curve", "arm": arm, "curve": curve(6.0, 5.0, 4.0)}
                for arm in ("plain", "compressed", "overlapped")]  # fmt: skip
    records += [{"part": "link", "arm": "plain", "step_seconds": 0.5, "planned": 0.55, **place},
                {"part": "link", "arm": "DDP", "step_seconds": 2.0, **place}]  # fmt: skip
    assert table.times_faster(records) == {"plain": [2.0]}
    assert table.off(records[-2], "planned") == pytest.approx(0.1)
    rows = [line.split(" | ")[1:5] for line in table.table(records).splitlines()[2:]]
    assert rows == [["DDP", "15", "30", ""], ["plain", "30", "15", "16"]]
    assert table.times_faster(records[1:]) == {}, "without a curve nothing is said"


def test_what_is_measured_is_not_measured_again(bench):
    links = bench("links")
    place = [links.Link(10.0, 1.0)]
    every = links.wanted(links.runs(["DDP", "overlapped"], place, 1), [])
    assert [(run.part, run.arm) for run in every] == [
        ("curve", "DDP"), ("curve", "overlapped"), ("machine", "compressed"), ("link", "DDP"),
        ("link", "overlapped"), ("kills", "overlapped"),
    ]  # fmt: skip
    done = [run.facts for run in every[1:]]
    assert links.wanted(links.runs(["DDP", "overlapped"], place, 1), done) == every[:1]
    with pytest.raises(ValueError, match="no arm is named 'none'"):
        bench("links_arms").chosen(["none"])


def test_a_packet_tells_whom_it_is_for(bench):
    hub = bench("links_hub")
    packet = struct.pack("!B15x4B", 0x45, 10, 77, 0, 3)
    assert hub.receiver(packet) == hub.address_of(2)
    assert hub.receiver(b"\x60" + packet[1:]) == hub.receiver(packet[:10]) == ""


def test_steps_at_first_do_not_count(bench):
    told = [{"seconds": s, "loss": 1.0, "compute": 0.1} for s in (9.0, 8.0, 1.0, 3.0, 2.0)]
    ran = bench("links_ddp").figures(told, [500, 600, 610, 620, 630])
    assert (ran.step_seconds, ran.step_bytes) == (2.0, 10.0)
