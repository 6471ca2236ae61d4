"""Which of a server's requests stops the training that another has asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from photon.config import load_config
from photon.errors import PayloadError
from photon.node import service as node_service
from photon.node.service import NodeService
from photon.wire.messages import Cancel, Trained, pack_request


def asked(number: int) -> Any:
    one = SimpleNamespace(client=0, round=number)
    return SimpleNamespace(run="r", round=number, instructions=[one])


@pytest.fixture
def service(tmp_path: Path) -> NodeService:
    own = load_config([f"photon.saving_path={tmp_path}"])
    return NodeService("n", [0], own, tmp_path / "socket", None, lambda line: None)


@pytest.mark.parametrize(
    ("run", "before", "stops"), [("r", 5, False), ("r", 6, True), ("other", 6, False)]
)
def test_what_the_server_has_gone_on_from_is_stopped_and_nothing_newer(service, run, before, stops):
    """The two may come in either order: a link keeps none."""
    order = service._next(asked(5))
    service.answer(pack_request(Cancel(run=run, before=before)))
    assert order.stop.is_set() == stops


def test_a_newer_request_stops_the_older_while_that_still_waits(service):
    older = service._next(asked(5))
    newer = service._next(asked(6))
    assert older.stop.is_set()
    assert not newer.stop.is_set()


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_stop_that_comes_while_a_run_is_opened_counts(service, monkeypatch, how):
    """To open one may take minutes; a round that nobody waits for may take hours."""
    opening, seen = threading.Event(), []

    class Hosted:
        run = SimpleNamespace(federation=SimpleNamespace(is_async=True), name="r")

        def train(self, request: Any, should_stop: Callable[[], bool]) -> Trained:
            seen.append(should_stop())
            return Trained()

    def opened(request: Any) -> Hosted:
        opening.set()
        assert service._newest.stop.wait(10)
        return Hosted()

    monkeypatch.setattr(service, "_hosted", opened)
    training = threading.Thread(target=service._train, args=(asked(5),))
    training.start()
    assert opening.wait(10)
    if how == "close":
        service.close()
    else:
        service.answer(pack_request(Cancel(run="r", before=6)))
    training.join(10)
    assert seen == [True]


def test_a_node_that_is_stopped_while_its_base_comes_is_leaving(service, monkeypatch):
    """It said that it had failed, which costs its clients one of the attempts that they have."""

    class Hosted:
        def train(self, request: Any, should_stop: Callable[[], bool]) -> Trained:
            service._stopped.set()
            raise PayloadError("stopped while a payload came")

    monkeypatch.setattr(service, "_hosted", lambda request: Hosted())
    assert service._train(asked(5)) == Trained(leaving=True)


def test_a_run_whose_receipts_cannot_be_read_is_opened_again_and_signs(service, monkeypatch):
    """It went on without its key, and the server refused all that came of it."""
    closed, opened = [], []

    def open_run(request: Any, *_: Any) -> Any:
        path = SimpleNamespace(path=service.home)
        run = SimpleNamespace(folder=path, receipts=None, sign=None, is_that_of=lambda asked: True)
        run.close = lambda: closed.append(run)
        opened.append(run)
        return run

    def book(*_: Any) -> str:
        if len(opened) == 1:
            raise OSError("Input/output error")
        return "receipts"

    monkeypatch.setattr(node_service, "run_of", lambda *_: None)
    monkeypatch.setattr(node_service, "HostedRun", SimpleNamespace(open=open_run))
    monkeypatch.setattr(node_service, "ReceiptBook", book)
    service.sign = cast(Any, "key")
    with pytest.raises(OSError, match="Input/output"):
        service._hosted(asked(1))
    hosted = service._hosted(asked(1))
    assert (hosted.sign, hosted.receipts) == ("key", "receipts")
    assert closed == opened[:1]
