"""Nodes anywhere, over Flower: a SuperLink and two relays; the outer loop stays here."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from photon.core.text import cleaned
from photon.errors import Interrupted, RoundFailed
from photon.flower.superlink import (
    APP,
    TOLD,
    Order,
    ServerKeys,
    Tail,
    last_line,
    start_superlink,
)
from photon.machine import frames
from photon.machine.address import format_address
from photon.machine.guard import Guarded
from photon.machine.interrupt import StopRequest
from photon.machine.owned_folder import sockets_folder
from photon.machine.private_files import keep_from_git
from photon.machine.waiting import Waiting
from photon.say import Say
from photon.server.link import Answer, Inbox, Link
from photon.wire.buffers import Buffers, RawBytes
from photon.wire.enrolment import Register, format_clients
from photon.wire.messages import MAX_MESSAGE_BYTES

HEAD = struct.Struct(">cQQ")
SEND, NODES, ANSWER, LOST = b"S", b"N", b"A", b"L"
READY_SECONDS = 600.0
"""A SuperLink whose process lives may take so long to be ready: on a busy machine it is minutes."""
QUIET_SECONDS = 10.0
"""Of its start, in which nothing is said of the wait."""
MAX_RESTARTS = 5
"""How often a dead SuperLink is replaced within `RESTART_WINDOW` seconds."""
RESTART_WINDOW = 600.0
LAST_SECONDS = 5.0
"""So long a link that is closed waits for a relay that is slow to take its last messages."""


class _Relay:
    """The server's relay, and what is under way over it, until either side ends.

    A thread writes, so that nobody waits who sends. The relay is one thread too: it takes no
    message before its answer has been read, and that is not read before the one ahead of it has
    been dealt with, which is done by whoever sends here. What waits to be written is bounded: a
    node hears the next word of a conversation once it has answered the last, and pieces of payloads
    are mapped files.
    """

    def __init__(self, connection: socket.socket, inbox: Inbox) -> None:
        self.nodes: list[str] = []
        self.has_ended = False
        self._connection, self._inbox = connection, inbox
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._outgoing: queue.SimpleQueue[tuple[str, tuple[RawBytes, ...]] | None]
        self._outgoing = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, name: str, *parts: RawBytes) -> None:
        """Have a message written; it is lost if the relay has ended, or ends before its answer."""
        with self._lock:
            self._under_way.add(name)
        self._outgoing.put((name, parts))
        if self.has_ended:
            self._lose({name})

    def close(self) -> None:
        """Have it take what still waits, if it does so in time, and end."""
        self._outgoing.put(None)
        deadline = time.monotonic() + LAST_SECONDS
        while self._writer.is_alive() and time.monotonic() < deadline:
            for _ in self._inbox.drain(0.01):
                pass  # nobody wants it, and the relay takes nothing while an answer waits for room
        self.end()

    def end(self) -> None:
        """Lose what is under way, at once: its reader may be waiting for room."""
        self.has_ended = True
        self._outgoing.put(None)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            names = set(self._under_way)
        self._lose(names)

    def _write(self) -> None:
        while (message := self._outgoing.get()) is not None:
            name, parts = message
            try:
                frames.send_bytes(self._connection, *parts)
            except OSError:
                self._lose({name})
            del message, parts  # or their files stay open until the next one

    def _read(self) -> None:
        """Frames until the relay ends."""
        try:
            while self._read_frame():
                pass
        except (OSError, ValueError):
            pass
        self.end()
        self._writer.join()
        self._connection.close()

    def _read_frame(self) -> bool:
        length = frames.receive_length(self._connection, MAX_MESSAGE_BYTES + HEAD.size)
        if length is None or length < HEAD.size:
            return False
        head = frames.read(self._connection, HEAD.size)
        if head is None:
            return False
        kind, request, _ = HEAD.unpack(head)
        body = partial(frames.read, self._connection, length - HEAD.size)
        if kind == ANSWER and self._settles(str(request)):
            self._inbox.receive(str(request), body)
        elif kind == LOST:
            self._lose({str(request)})
        elif (nodes := body()) is not None and kind == NODES:
            self.nodes = [str(node) for node in json.loads(bytes(nodes))]
        return True

    def _settles(self, name: str) -> bool:
        """Take a request off those under way; whether it was one."""
        with self._lock:
            waits = name in self._under_way
            self._under_way.discard(name)
        return waits

    def _lose(self, names: set[str]) -> None:
        for name in filter(self._settles, names):
            self._inbox.lose(name)


class FlowerLink(Link):
    """A link over Flower; starts and supervises SuperLink and the server's relay.

    If the SuperLink dies a new one takes its place; requests under way are lost (None), so their
    clients are asked again, and answer with what they have finished.

    Args:
        folder: Flower's files and logs.
        keys: None: insecure.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        port: int,
        keys: ServerKeys | None,
        register: Register,
        say: Say,
        stop: StopRequest,
    ) -> None:
        self.folder, self.host, self.port, self.keys = folder, host, port, keys
        self.register, self.say, self.stop = register, say, stop
        self._count = itertools.count(1)
        self._inbox = Inbox()
        self._starts: list[float] = []
        self._superlink: Guarded | None = None
        self._tail = Tail(folder / "superlink.log")
        self._start()

    def addresses(self) -> list[str]:
        self._supervise()
        return [] if self._relay.has_ended else list(self._relay.nodes)

    def send(self, address: str, message: Buffers) -> str:
        name = str(next(self._count))
        head = HEAD.pack(SEND, int(name), int(address))
        self._relay.send(name, head, *message.parts)
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        return self._inbox.drain(timeout)

    def close(self) -> None:
        self._relay.close()
        if self._superlink is not None:
            self._superlink.close()

    def _start(self) -> None:
        begun = time.monotonic()
        self._starts = [t for t in self._starts if t > begun - RESTART_WINDOW] + [begun]
        keep_from_git(self.folder)
        self.folder.chmod(0o700)
        self._relay = _Relay(self._begin(), self._inbox)
        where = format_address(self.host, self.port)
        self.say(f"superlink   {where}, ready in {time.monotonic() - begun:.1f} s")

    def _begin(self) -> socket.socket:
        """Start the SuperLink, and wait until the server's relay has come.

        The relay proves by a token that it is the one that was started here.
        """
        token = secrets.token_hex(16)
        with sockets_folder() as home:
            path = home / "relay"
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(path))
                listener.listen(1)
                listener.settimeout(0.1)
                self._superlink = start_superlink(self._order(path, token))
                try:
                    return self._accept(listener, token)
                except BaseException:
                    self._superlink.close()
                    raise

    def _order(self, relay: Path, token: str) -> Order:
        nodes, keys = self.register.nodes, self.keys
        return Order(
            folder=str(self.folder.resolve()),
            host=self.host,
            port=self.port,
            certificate=None if keys is None else str(keys.certificate),
            key=None if keys is None else str(keys.key),
            nodes=None if nodes is None else {n: e.public_key for n, e in nodes.items()},
            clients={n: format_clients(e.clients) for n, e in (nodes or {}).items()},
            app=str(APP),
            socket=str(relay),
            token=token,
        )

    def _accept(self, listener: socket.socket, token: str) -> socket.socket:
        """The relay's connection.

        Raises:
            Interrupted: a signal arrived.
            RoundFailed: the SuperLink has ended, or no relay has come in time.
        """
        assert self._superlink is not None
        log, begun, waiting = self.folder / "superlink.log", time.monotonic(), Waiting(self.say)
        while self._superlink.returncode is None:
            waited = time.monotonic() - begun
            if waited > READY_SECONDS or self.stop():
                break
            if waited > QUIET_SECONDS:
                waiting.tell(f"for Flower's SuperLink to start; its log is {log}")
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                if frames.receive_bytes(connection, 1024) == token.encode():
                    return connection
        self.stop.raise_if_asked("stopped before the SuperLink was ready")
        reason = (
            f"not ready in {READY_SECONDS:.0f} s"
            if self._superlink.returncode is None
            else "it ended"
        )
        raise RoundFailed(f"Flower's ServerApp: {reason}: {last_line(log)}")

    def _supervise(self) -> None:
        """Pass on what a SuperLink tells; replace it, or a relay, that has ended."""
        assert self._superlink is not None
        for line in self._tail.read().splitlines():
            if line.startswith(TOLD):
                self.say(cleaned(line.removeprefix(TOLD)))
        if self._superlink.returncode is None and not self._relay.has_ended:
            return
        if self.stop():
            return
        if len(self._starts) > MAX_RESTARTS:
            raise RoundFailed(
                f"Flower's SuperLink ended {len(self._starts)} times in {RESTART_WINDOW:.0f} s; "
                f"see {self.folder / 'superlink.log'}"
            )
        self.say("superlink   has ended; starting a new one")
        self._superlink.close()
        self._relay.end()
        with contextlib.suppress(Interrupted):  # who runs the round sees it, and says what is kept
            self._start()
