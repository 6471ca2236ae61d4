"""Nodes anywhere, over Flower: a SuperLink and two relays; the outer loop stays here."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from photon.core.text import cleaned
from photon.errors import RoundFailed
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
from photon.machine.owned_folder import sockets_folder
from photon.machine.private_files import keep_from_git
from photon.say import Say
from photon.server.link import Answer, Inbox, Link
from photon.wire.buffers import Buffers
from photon.wire.enrolment import Register, format_clients
from photon.wire.messages import MAX_MESSAGE_BYTES

HEAD = struct.Struct(">cQQ")
SEND, NODES, ANSWER, LOST = b"S", b"N", b"A", b"L"
READY_SECONDS = 90.0
MAX_RESTARTS = 5
"""How often a dead SuperLink is replaced within `RESTART_WINDOW` seconds."""
RESTART_WINDOW = 600.0


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
        should_stop: Callable[[], bool],
    ) -> None:
        self.folder, self.host, self.port, self.keys = folder, host, port, keys
        self.register, self.say, self.should_stop = register, say, should_stop
        self._count = itertools.count(1)
        self._inbox = Inbox()
        self._under_way: set[str] = set()
        self._nodes: list[str] = []
        self._starts: list[float] = []
        self._superlink: Guarded | None = None
        self._tail = Tail(folder / "superlink.log")
        self._relay: socket.socket | None = None
        self._lock = threading.Lock()
        self._start()

    def addresses(self) -> list[str]:
        self._supervise()
        return list(self._nodes)

    def send(self, address: str, message: Buffers) -> str:
        name = str(next(self._count))
        with self._lock:
            self._under_way.add(name)
        relay = self._relay
        try:
            if relay is None:
                raise ConnectionError
            head = HEAD.pack(SEND, int(name), int(address))
            frames.send_bytes(relay, head, *message.parts)
        except OSError:
            self._lose({name})
        return name

    def answers(self, timeout: float) -> Iterator[Answer]:
        return self._inbox.drain(timeout)

    def close(self) -> None:
        if self._relay is not None:
            self._relay.close()
        if self._superlink is not None:
            self._superlink.close()

    def _start(self) -> None:
        begun = time.monotonic()
        self._starts = [t for t in self._starts if t > begun - RESTART_WINDOW] + [begun]
        keep_from_git(self.folder)
        self.folder.chmod(0o700)
        self._relay = self._begin()
        threading.Thread(target=self._read, args=(self._relay,), daemon=True).start()
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
            RoundFailed: the SuperLink has ended, or no relay has come in time.
        """
        assert self._superlink is not None
        deadline = time.monotonic() + READY_SECONDS
        while self._superlink.returncode is None:
            if time.monotonic() > deadline or self.should_stop():
                break
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                if frames.receive_bytes(connection, 1024) == token.encode():
                    return connection
        reason = "not ready in time" if self._superlink.returncode is None else "it ended"
        log = self.folder / "superlink.log"
        raise RoundFailed(f"Flower's ServerApp: {reason}: {last_line(log)}")

    def _read(self, relay: socket.socket) -> None:
        """Frames of the relay until it ends; then all that is under way is lost."""
        try:
            while self._read_frame(relay):
                pass
        except (OSError, ValueError):
            pass
        if relay is self._relay:
            self._nodes, self._relay = [], None
            self._lose(set(self._under_way))

    def _read_frame(self, relay: socket.socket) -> bool:
        length = frames.receive_length(relay, MAX_MESSAGE_BYTES + HEAD.size)
        if length is None or length < HEAD.size:
            return False
        head = frames.read(relay, HEAD.size)
        if head is None:
            return False
        kind, request, _ = HEAD.unpack(head)
        body = partial(frames.read, relay, length - HEAD.size)
        if kind == ANSWER and self._settles(str(request)):
            self._inbox.receive(str(request), body)
        elif kind == LOST:
            self._lose({str(request)})
        elif (nodes := body()) is not None and kind == NODES:
            self._nodes = [str(node) for node in json.loads(bytes(nodes))]
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

    def _supervise(self) -> None:
        """Pass on what a SuperLink tells; replace it, or a relay, that has ended."""
        assert self._superlink is not None
        for line in self._tail.read().splitlines():
            if line.startswith(TOLD):
                self.say(cleaned(line.removeprefix(TOLD)))
        if self._superlink.returncode is None and self._relay is not None:
            return
        if self.should_stop():
            return
        if len(self._starts) > MAX_RESTARTS:
            raise RoundFailed(
                f"Flower's SuperLink ended {len(self._starts)} times in {RESTART_WINDOW:.0f} s; "
                f"see {self.folder / 'superlink.log'}"
            )
        self.say("superlink   has ended; starting a new one")
        self._superlink.close()
        self._start()
