"""The server's link over Flower, with a relay of the test's own: no side waits for ever."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")

from photon.errors import Interrupted, RoundFailed
from photon.flower import link as flower
from photon.flower.link import ANSWER, HEAD, NODES, FlowerLink
from photon.flower.superlink import Order
from photon.machine import frames
from photon.machine.interrupt import StopRequest
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register
from photon.wire.messages import MAX_MESSAGE_BYTES

LONG = memoryview(bytes(4 << 20))
"""More than a socket holds: nobody sends it before the other side reads."""
SECONDS = 5.0
"""Enough for anything here; what takes longer waits for ever."""


class SuperLink:
    """Stands for a SuperLink; the test is the relay that it starts, and has both for its own."""

    def __init__(self, order: Order, comes: bool = True) -> None:
        self.returncode: int | None = None
        self.relay = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.relay.settimeout(SECONDS)
        (Path(order.folder) / "superlink.log").touch()
        if comes:
            self.relay.connect(order.socket)
            frames.send_bytes(self.relay, order.token.encode())

    def hear(self) -> tuple[int, int]:
        """Request and length of the next message."""
        frame = frames.receive_bytes(self.relay, MAX_MESSAGE_BYTES + HEAD.size)
        assert frame is not None, "the link has ended"
        return HEAD.unpack(frame[: HEAD.size])[1], len(frame) - HEAD.size

    def tell(self, kind: bytes, request: str, body: bytes | memoryview) -> None:
        frames.send_bytes(self.relay, HEAD.pack(kind, int(request), 0), body)

    def close(self) -> None:
        self.returncode = 0
        with contextlib.suppress(OSError):
            self.relay.shutdown(socket.SHUT_RDWR)
        self.relay.close()


class Started(list[SuperLink]):
    """Those that a link has started; whether relays come, and what else happens at a start."""

    come = True

    def __init__(self) -> None:
        self.stop, self.meanwhile = StopRequest(), lambda: None

    def start(self, order: Order) -> SuperLink:
        self.append(SuperLink(order, self.come))
        self.meanwhile()
        return self[-1]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    started = Started()
    monkeypatch.setattr(flower, "start_superlink", started.start)
    yield started
    for one in started:
        one.close()


def make_link(
    folder: Path, started: Started, say: Callable[[str], None] = lambda line: None
) -> FlowerLink:
    flowers, register = folder / "flower", Register(None)
    return FlowerLink(flowers, "127.0.0.1", 1, None, register, say, started.stop)


@pytest.fixture
def link(tmp_path: Path, started: Started) -> Iterator[FlowerLink]:
    made = make_link(tmp_path, started)
    yield made
    started[-1].close()  # whoever waits for it goes on
    made.close()


def beside(work: Callable[[], object]) -> threading.Thread:
    """A thread that does so, until the other side ends."""

    def run() -> None:
        with contextlib.suppress(OSError, AssertionError):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def heard(link: FlowerLink, count: int) -> dict[str, int | None]:
    """Lengths of that many answers, or of fewer if no more come; None: lost."""
    found: dict[str, int | None] = {}
    deadline = time.monotonic() + SECONDS
    while len(found) < count and time.monotonic() < deadline:
        for name, answer in link.answers(0.1):
            found[name] = None if answer is None else answer.size
    return found


def test_that_neither_side_waits_for_the_other(link, started):
    """The relay passes on a long answer while the one before brings about a long message."""
    first, second = link.send("1", Buffers(b"x")), link.send("2", Buffers(b"x"))
    asked = []

    def relay() -> None:
        asked.extend(started[0].hear() for _ in range(2))
        started[0].tell(ANSWER, second, b"done")
        started[0].tell(ANSWER, first, LONG)
        asked.append(started[0].hear())

    def serve() -> None:
        for _ in link.answers(SECONDS):
            link.send("2", Buffers(LONG))
            break
        found.update(heard(link, 1))

    found: dict[str, int | None] = {}
    for thread in (beside(relay), beside(serve)):
        thread.join(SECONDS)
        assert not thread.is_alive(), "all wait for each other"
    assert found == {first: len(LONG)}
    assert asked == [(1, 1), (2, 1), (3, len(LONG))]


def test_that_a_message_which_the_relay_never_takes_is_lost_with_it(link, started):
    names: list[str] = []
    sending = beside(lambda: names.extend(link.send("1", Buffers(LONG)) for _ in range(3)))
    sending.join(SECONDS)
    assert not sending.is_alive(), "sending waits"
    started[0].close()
    assert heard(link, 3) == dict.fromkeys(names)
    after = link.send("1", Buffers(b"x"))
    assert heard(link, 1) == {after: None}


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


@pytest.mark.parametrize("is_taken", [True, False])
def test_that_what_was_sent_is_written_before_the_link_ends(
    tmp_path, started, monkeypatch, is_taken
):
    """Answers that nobody takes any more are in nobody's way; a relay that reads nothing is."""
    monkeypatch.setattr(flower, "LAST_SECONDS", SECONDS if is_taken else 0.1)
    before = threads()
    link = make_link(tmp_path, started)
    names = [link.send("1", Buffers(b"x")) for _ in range(2)]
    asked = []

    def relay() -> None:
        asked.extend(started[0].hear() for _ in range(2))
        for name in names:
            started[0].tell(ANSWER, name, LONG)
        asked.extend(started[0].hear() for _ in range(2))

    last = [len(LONG), 1]
    at_work = beside(relay) if is_taken else None
    if at_work is not None:  # what is written may not be read yet when the link ends its SuperLink
        end = started[0].close
        monkeypatch.setattr(started[0], "close", lambda: (at_work.join(SECONDS), end()))
    closing = beside(lambda: ([link.send("1", Buffers(bytes(n))) for n in last], link.close()))
    closing.join(SECONDS)
    assert not closing.is_alive(), "closing waits for ever"
    if at_work is not None:
        at_work.join(SECONDS)
        assert asked == [(1, 1), (2, 1), (3, len(LONG)), (4, 1)]
    deadline = time.monotonic() + SECONDS
    while threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() - before == set()


def test_that_all_is_lost_with_a_superlink_whose_answers_still_wait(link, started):
    """One answer is not dealt with yet, the next has begun to come, and to a third none will."""
    first, second, third = [link.send("1", Buffers(b"x")) for _ in range(3)]
    started[0].tell(NODES, "0", b"[1]")
    started[0].tell(ANSWER, first, b"done")
    started[0].relay.settimeout(0.1)
    with contextlib.suppress(TimeoutError):
        started[0].tell(ANSWER, second, LONG)
    started[0].returncode = 1
    here = link.addresses()
    assert len(started) == 2
    fourth = link.send("1", Buffers(b"x"))
    assert started[1].hear() == (4, 1)
    started[1].tell(ANSWER, fourth, b"new")
    assert heard(link, 4) == {first: 4, second: None, third: None, fourth: 3}
    assert here == [], "nodes of the one before"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_that_a_start_which_is_interrupted_is_no_failure(tmp_path, started, number, code):
    started.come, started.meanwhile = False, lambda: setattr(started.stop, "signum", number)
    with pytest.raises(Interrupted) as stopped:
        make_link(tmp_path, started)
    assert stopped.value.exit_code == code
    assert started[0].returncode == 0, "it is left running"


def test_that_a_relay_which_does_not_come_is_a_failure(tmp_path, started, monkeypatch):
    monkeypatch.setattr(flower, "READY_SECONDS", 0.0)
    started.come = False
    with pytest.raises(RoundFailed, match="not ready in 0 s"):
        make_link(tmp_path, started)


def test_that_a_slow_start_is_waited_for_and_told(tmp_path, started, monkeypatch):
    """Its process lives: on a busy machine it takes minutes."""
    assert flower.READY_SECONDS >= 300
    monkeypatch.setattr(flower, "QUIET_SECONDS", 0.0)
    started.come, said = False, []

    def stop_then(line: str) -> None:
        said.append(line)
        started.stop.signum = 2

    with pytest.raises(Interrupted):
        make_link(tmp_path, started, stop_then)
    log = tmp_path / "flower" / "superlink.log"
    assert said == [f"waiting     for Flower's SuperLink to start; its log is {log}"]


def test_that_whoever_is_stopped_at_a_new_start_says_himself_what_is_kept(link, started):
    """A round is under way: its loop sees the request, and ends it as always."""
    started.come, started.meanwhile = False, lambda: setattr(started.stop, "signum", 2)
    started[0].returncode = 1
    assert link.addresses() == []
    assert [one.returncode for one in started] == [0, 0]
    name = link.send("1", Buffers(b"x"))
    assert heard(link, 1) == {name: None}
