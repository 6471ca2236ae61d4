"""What a server answers the network: a closed list of calls, of known callers, within limits.

An ASGI application around another. Whatever is not on the list never reaches the application
inside, nor does a body of somebody who is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from photon.wire.knock import BOUND, KNOWN
from photon.wire.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as HTTPProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HTTPProtocol

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Identify = Callable[[dict[bytes, bytes], str], Hashable | None]
"""Caller by headers and network address; None: one who may not call."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may ask of the server.

    Attributes:
        body: bytes of a request.
        drained: bytes that are read of a request that is refused, so that its sender can hear why.
        at_once: requests of one caller; more of them wait.
        idle: seconds between two pieces of a body.
        whole: seconds of a request and its response.
        headers: seconds of a TLS handshake, until a connection has brought a request, between two
            of them, and for the rest of one that is refused.
        connections: in all; a quarter of them for one address.
    """

    body: int = MAX_MESSAGE_BYTES + (1 << 20)
    drained: int = 4 << 20
    at_once: int = 16
    idle: float = 60.0
    whole: float = 1800.0
    headers: float = 20.0
    connections: int = 2000


class _Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Front:
    """Passes calls of a closed list on to an application, and answers all else itself.

    Args:
        paths: what may be called, by POST, spelled exactly so.
        identify: who calls; None is answered with 401.
        may_say: of a path, whether a body may pass; others are answered with 403.
        bound: of a caller, the clients that its key is bound to, which it may ask for.
        on_stranger: takes the address of a node whose key is not known.
    """

    def __init__(
        self,
        app: App,
        paths: frozenset[str],
        identify: Identify,
        limits: Limits | None = None,
        may_say: Mapping[str, Callable[[bytes], bool]] | None = None,
        bound: Mapping[Hashable, str] | None = None,
        on_stranger: Callable[[str], None] | None = None,
    ) -> None:
        self.app, self.paths, self.identify = app, paths | {KNOWN}, identify
        self.limits, self.may_say = limits or Limits(), may_say or {}
        self.bound = bound or {}
        self.on_stranger = on_stranger or (lambda address: None)
        self._turns: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            async with asyncio.timeout(self.limits.whole):
                try:
                    await self._pass_on(scope, receive, send)
                except _Refused as refused:
                    await self._refuse(refused.status, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._admit(scope)
        if scope["path"] == KNOWN:
            clients = self.bound.get(caller)
            headers = [] if clients is None else [(BOUND.encode(), clients.encode())]
            await _answer(204, send, headers)
            return
        turn = self._turns.setdefault(caller, asyncio.Semaphore(self.limits.at_once))
        async with turn:
            body = await self._body(receive)
            may_say = self.may_say.get(scope["path"])
            if may_say is not None and not may_say(body):
                raise _Refused(403)
            await self.app(scope, _replay(body, receive), send)

    def _admit(self, scope: Scope) -> Hashable:
        path = scope["path"]
        if (
            scope["method"] != "POST"
            or path not in self.paths
            or scope.get("raw_path", path.encode()) != path.encode()
            or scope["query_string"]
        ):
            raise _Refused(404)
        headers = dict(scope["headers"])
        address = (scope.get("client") or ("",))[0]
        caller = self.identify(headers, address)
        if caller is None:
            if path == KNOWN:
                self.on_stranger(address)
            raise _Refused(401)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.limits.body:
            raise _Refused(413)
        return caller

    async def _body(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size, has_more = 0, True
        while has_more:
            event = await self._next(receive)
            parts.append(event.get("body", b""))
            size += len(parts[-1])
            has_more = event.get("more_body", False)
            if size > self.limits.body:
                raise _Refused(413)
        return b"".join(parts)

    async def _next(self, receive: Receive) -> Event:
        try:
            event = await asyncio.wait_for(receive(), self.limits.idle)
        except TimeoutError:
            raise _Refused(408) from None
        if event["type"] != "http.request":
            raise _Refused(400)
        return event

    async def _refuse(self, status: int, receive: Receive, send: Send) -> None:
        """Answer, once the sender has stopped sending or has sent too much to be waited for."""
        read, has_more = 0, True
        with contextlib.suppress(_Refused, TimeoutError):
            async with asyncio.timeout(self.limits.headers):
                while has_more and status in (401, 404) and read < self.limits.drained:
                    event = await self._next(receive)
                    read += len(event.get("body", b""))
                    has_more = event.get("more_body", False)
        await _answer(status, send, [(b"connection", b"close")] if has_more else [])


async def _answer(status: int, send: Send, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    length = [] if status == 204 else [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": b""})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read already, then what comes after it."""
    waiting = [body]

    async def next_event() -> Event:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return next_event


class Door(socket.socket):
    """A listener that bounds how many connections are open: counted before their TLS handshake."""

    def __init__(self, listener: socket.socket, limits: Limits) -> None:
        super().__init__(fileno=listener.detach())
        self._limits = limits
        self._hosts: WeakKeyDictionary[socket.socket, str] = WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, Any]:
        """At a limit raises ConnectionAbortedError, after which asyncio goes on."""
        connection, address = super().accept()
        here = [host for known, host in self._hosts.items() if known.fileno() >= 0]
        most = self._limits.connections
        if len(here) >= most or here.count(address[0]) >= most // 4:
            connection.close()
            raise ConnectionAbortedError
        self._hosts[connection] = address[0]
        return connection, address


def bounded_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP, for connections that must bring a request in time."""

    class Bounded(HTTPProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def _watch(self) -> None:
            # A timer that is overtaken finds a request in progress or a later answer, never both.
            self._answered = self.loop.time()
            self.loop.call_later(limits.headers, self._give_up)

        def _give_up(self) -> None:
            waited = self.loop.time() - self._answered
            is_waiting = self.cycle is None or self.cycle.response_complete
            if is_waiting and waited >= limits.headers - 1e-3:
                self.transport.abort()

    return Bounded
