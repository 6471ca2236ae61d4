"""A hub that cannot be reached is asked once, and then said to be out of reach."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from photon.data.hub_access import why_unreachable
from photon.data.prepare.hub import HubSource
from photon.data.prepare.readers import Columns
from photon.data.tokenizer import open_tokenizer, train_tokenizer
from photon.errors import DataError

NOTHING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Deaf:
    """A server that hangs up on whoever calls, or gives all the same answer, and counts them.

    Attributes:
        calls: connections so far.
    """

    def __init__(self, answer: bytes = b"") -> None:
        self.calls, self._answer = 0, answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            with caller:
                if self._answer:
                    caller.recv(65536)
                    caller.sendall(self._answer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def asked(monkeypatch) -> Iterator[Deaf]:
    """What stands in the place of the hub."""
    server = Deaf()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    yield server
    server.close()


def test_a_tokenizer_is_asked_for_once(asked):
    with pytest.raises(DataError, match=rf"tokenizer 'some/name': .*{asked.url} cannot be reached"):
        open_tokenizer("some/name")
    assert asked.calls == 1


def test_a_dataset_is_asked_for_once(asked, monkeypatch):
    def load_dataset(*_, **__):
        raise AssertionError("the library asks six times")

    monkeypatch.setitem(
        sys.modules,
        "datasets",
        SimpleNamespace(load_dataset=load_dataset, __spec__=SimpleNamespace(origin="here")),
    )
    with pytest.raises(DataError, match=rf"{asked.url} cannot be reached.*--source"):
        list(HubSource("c4", "en", "train", Columns()).documents(0, 0))
    assert asked.calls == 1


def test_what_was_fetched_before_needs_no_hub(asked, monkeypatch, tmp_path: Path):
    home = tmp_path / "models--some--name"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("a" * 40)
    kept = home / "snapshots" / ("a" * 40)
    kept.mkdir(parents=True)
    trained = train_tokenizer(["the wind in the tall grass"], 260)
    trained.save(str(kept / "tokenizer.json"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert open_tokenizer("some/name").get_vocab() == trained.get_vocab()


def test_a_hub_that_answers_is_reached_whatever_it_says(asked, monkeypatch):
    assert why_unreachable()
    other = Deaf(NOTHING)
    monkeypatch.setattr(constants, "ENDPOINT", other.url)
    assert why_unreachable() is None
    other.close()
