"""How often Flower's loops ask for work."""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from clocks import Clock
from photon.flower import patience
from photon.flower.patience import PART, SHORTEST, Patience


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Clock:
    watch = Clock()
    monkeypatch.setattr(patience, "time", watch)
    return watch


def test_that_a_pause_is_a_part_of_the_time_since_something_happened(watch: Clock) -> None:
    clock = Patience()
    for waited in (0.0, 2.0, 10.0):
        watch.now = 100.0 + waited
        clock.sleep(3.0)
    assert watch.slept == [SHORTEST, pytest.approx(2.0 * PART), pytest.approx(10.0 * PART)]


def test_that_no_pause_is_longer_than_flowers_own(watch: Clock) -> None:
    clock = Patience()
    watch.now += 3600.0
    clock.sleep(3.0)
    clock.sleep(0.01)
    assert watch.slept == [3.0, 0.01]


def test_that_pauses_are_short_again_after_something_has_happened(watch: Clock) -> None:
    clock = Patience()
    watch.now += 3600.0
    clock.something_happened()
    clock.sleep(3.0)
    assert watch.slept == [SHORTEST]


@pytest.mark.parametrize("after", [0.7, 5.0, 100.0])
def test_that_what_comes_is_noticed_a_tenth_later_at_the_most(watch: Clock, after: float) -> None:
    clock = Patience()
    while watch.now < 100.0 + after:
        clock.sleep(3600.0)
    assert watch.now - 100.0 - after <= PART * after + 1e-9


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What Flower waits before it pulls a part again; that takes no time here."""
    found: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            found.append(timeout or 0.0)
            return self.is_set()

    utils = pytest.importorskip("flwr.supercore.inflatable.inflatable_utils")
    monkeypatch.setattr(random, "uniform", lambda low, high: 0.0)
    monkeypatch.setattr(utils, "threading", Threading(Event))
    return found


class Threading:
    """The module, as far as Flower uses it."""

    Lock = staticmethod(threading.Lock)

    def __init__(self, event: type[threading.Event]) -> None:
        self.Event = event


@pytest.mark.parametrize("missed", [0, 3, 800])
def test_that_a_part_is_pulled_again_soon_and_as_often_as_it_takes(
    waits: list[float], missed: int
) -> None:
    from flwr.supercore.inflatable import inflatable_utils as utils

    asked: list[str] = []

    def pull(part: str) -> bytes:
        asked.append(part)
        if len(asked) <= missed:
            raise utils.ObjectUnavailableError(part)
        return b"here"

    assert patience.pulling_soon(utils.pull_objects)(["part"], pull) == {"part": b"here"}
    expected = [0.05, 0.1, 0.2, 0.4, 0.8, *[1.0] * missed][:missed]
    assert waits == pytest.approx(expected)


def nothing(*_: Any, **__: Any) -> None:
    pass


def kept(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> None:
    """What a process of its own puts in the place of these is undone behind the test."""
    for name in names:
        monkeypatch.setattr(module, name, getattr(module, name))


def test_that_relays_pull_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    from photon.flower import superexec_process as process

    kept(monkeypatch, process.run_clientapp, "pull_and_inflate_object_from_tree")
    kept(monkeypatch, process.run_superexec, "time", "get_executor")
    monkeypatch.setattr(process.run_superexec, "run_superexec", nothing)
    for name in ("disable_process_dumping", "end_with", "load_superexec_auth_secret"):
        monkeypatch.setattr(process, name, nothing)
    process.main(1, tmp_path, 1)
    pull: Any = process.run_clientapp.pull_and_inflate_object_from_tree
    assert pull.keywords["initial_backoff"] == SHORTEST
    assert isinstance(process.run_superexec.time, Patience)


def test_that_a_node_pulls_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    import flwr.cli.build
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode  # noqa: F401 -- or its module is not there

    from photon.flower import supernode_process as process

    kept(monkeypatch, start_client_internal, "pull_objects", "time")
    kept(monkeypatch, fleet_http_connection, "FleetHttpClient")
    kept(monkeypatch, sys, "argv")
    command = sys.modules["flwr.supernode.cli.flower_supernode"]
    monkeypatch.setattr(command, "flower_supernode", nothing)
    monkeypatch.setattr(flwr.cli.build, "build_fab_from_disk", nothing)
    monkeypatch.setattr(process, "start_superexec", nothing)
    monkeypatch.setattr(os, "_exit", nothing)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    process.main(tmp_path, 1, [])
    pull: Any = start_client_internal.pull_objects
    assert pull.keywords["initial_backoff"] == SHORTEST
    assert isinstance(start_client_internal.time, Patience)
