"""The resident service of one site: answers a server's requests over a Unix socket.

Whoever brings the messages (Flower's ClientApp, or the server itself on the same machine) connects,
sends one request and waits for its answer. The model, the data and the clients' states stay here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from photon.chain.receipts import ReceiptBook, Trust
from photon.config.federation import Federation
from photon.config.schema import Config
from photon.errors import PayloadError, PhotonError
from photon.machine import frames
from photon.node.hosted_run import HostedRun, run_of
from photon.node.mailbox import Mailbox
from photon.say import Say
from photon.wire.buffers import Buffers
from photon.wire.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL,
    Agree,
    Cancel,
    Closed,
    Done,
    Get,
    Hello,
    Introduction,
    Kept,
    MaskNumbers,
    Notice,
    Put,
    Refused,
    Request,
    Reveal,
    ShareKeys,
    Sign,
    Train,
    Trained,
    TurnedAway,
    pack_reply,
    unpack_request,
)
from photon.wire.stores import allowed_stores


@dataclass(frozen=True, slots=True)
class Order:
    """A request to train, also while its run is still being opened.

    Attributes:
        stop: set where it is to end between two steps.
    """

    run: str
    round: int
    stop: threading.Event = field(default_factory=threading.Event)


class NodeService:
    """Answers requests until told to stop.

    Args:
        name: of the node, as it is enrolled.
        clients: whose data is here.
        own: configuration whose keys of this machine count: paths, devices, workers.
        path: of the Unix socket.
        sign: signs replies and updates; None where there are no keys.
        trust: what receipts are checked by.

    Attributes:
        heard: how many messages have come.
        came_to: the run that it has last trained for, its round, and the last round of it;
            None: there is none.
        turned_away: why the server does not want this node; None: it does, or has not said.
    """

    def __init__(
        self,
        name: str,
        clients: list[int],
        own: Config,
        path: Path,
        sign: Sign | None,
        say: Say,
        trust: Trust | None = None,
    ) -> None:
        self.name, self.clients, self.own = name, clients, own
        self.path, self.sign, self.say, self.trust = path, sign, say, trust
        self.home = Path(own.machine.runs_folder) / f".node-{name}"
        self._mailbox = Mailbox(self.home / "mail", allowed_stores(own.machine))
        self._run: HostedRun | None = None
        self._training, self._asking = threading.Lock(), threading.Lock()
        self._newest: Order | None = None
        self._stopped = threading.Event()
        self.heard = 0
        self.came_to: tuple[str, int, int] | None = None
        self.turned_away: str | None = None

    def serve(self, should_stop: Callable[[], bool]) -> None:
        """Answer until `should_stop` or turned away; then end the workers, everything saved."""
        with _listen(self.path) as listener:
            while not should_stop() and self.turned_away is None:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
        self._stopped.set()
        self.close()

    def close(self) -> None:
        if self._newest is not None:
            self._newest.stop.set()
        with self._training:
            if self._run is not None:
                self._run.close()
                self._run = None
        self._mailbox.close()

    def answer(self, message: Buffers) -> Buffers:
        """The reply to a request, whatever it is."""
        try:
            reply = self._carry_out(unpack_request(message))
        except (PhotonError, OSError) as error:
            reply = Refused(error=str(error))
        except Exception as error:  # the server must hear of it; the node goes on
            reply = Refused(error=f"internal error: {type(error).__name__}: {error}")
        if isinstance(reply, Refused):
            self.say(f"refused: {reply.error}")
        return pack_reply(message, self.name, reply, self.sign)

    def _carry_out(self, request: Request) -> Closed:
        match request:
            case Hello():
                return Introduction(
                    name=self.name, clients=self.clients, versions=versions(), protocol=PROTOCOL,
                    holds=self._mailbox.holds,
                )  # fmt: skip
            case Train():
                return self._train(request)
            case Put():
                return Kept(until=self._mailbox.take(request))
            case Get():
                return self._mailbox.give(request)
            case TurnedAway():
                self.turned_away = request.reason
            case _:
                return self._of_run(request)
        return Done()

    def _of_run(self, request: Request) -> Closed:
        """The reply to what is said of the run that is hosted."""
        run = self._run
        match request:
            case Agree() | ShareKeys() | MaskNumbers() | Reveal():
                if run is None:
                    raise PayloadError("secure aggregation: no run is hosted here")
                return run.masking.answer(request)
            case Notice() if run is not None and run.run.name == request.run:
                if run.receipts is not None:
                    run.receipts.take(request)
            case Cancel():
                self._cancel(request)
        return Done()

    def _train(self, request: Train) -> Trained:
        """One request trains at a time; a newer one stops the older between two steps."""
        strange = sorted({one.client for one in request.instructions} - set(self.clients))
        if strange:
            raise PayloadError(f"has no data of client {strange[0]}")
        order = self._next(request)
        with self._training:
            if self._stopped.is_set():
                return Trained(leaving=True)
            hosted = self._hosted(request)
            try:
                trained = hosted.train(request, order.stop.is_set)
            except PayloadError:
                if not self._stopped.is_set():
                    raise
                return Trained(leaving=True)  # the base goes on to come when this node is back
            self.came_to = _place_in(request, hosted.run.federation)
        return trained.model_copy(update={"leaving": self._stopped.is_set()})

    def _next(self, request: Train) -> Order:
        """A request that is the newest now."""
        with self._asking:
            if self._newest is not None:
                self._newest.stop.set()
            self._newest = Order(request.run, request.round)
            return self._newest

    def _cancel(self, request: Cancel) -> None:
        """Stop what the server has gone on from; what it asked for since may be here before."""
        order = self._newest
        if order is not None and order.run == request.run and order.round < request.before:
            order.stop.set()

    def _hosted(self, request: Train) -> HostedRun:
        """The run that a request names; another one that was hosted until now is put away."""
        if self._run is None or not self._run.is_that_of(request):
            if self._run is not None:
                self._run.close()
                self._run = None
            run = run_of(request, self.own)
            hosted = HostedRun.open(request, run, self._mailbox, self.say)
            try:
                book = ReceiptBook(hosted.folder.path, request.run, self.name, self.trust, self.say)
            except BaseException:
                hosted.close()
                raise
            hosted.sign, hosted.receipts, self._run = self.sign, book, hosted
        return self._run

    def _converse(self, connection: socket.socket) -> None:
        with connection:
            try:
                message = frames.receive_bytes(connection, MAX_MESSAGE_BYTES)
                if message is not None:
                    self.heard += 1
                    frames.send_bytes(connection, *self.answer(Buffers(message)).parts)
            except (OSError, ValueError):
                return  # whoever asked is gone; what was trained is kept


def _place_in(request: Train, fl: Federation) -> tuple[str, int, int] | None:
    """Run, round and last round; None where merges are no rounds, so that none is the last."""
    if fl.is_async:
        return None
    return request.run, max((one.round for one in request.instructions), default=0), fl.rounds


def _listen(path: Path) -> socket.socket:
    """A socket that only this user may connect to."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    listener.settimeout(0.2)
    return listener


@cache
def versions() -> dict[str, str]:
    """What must agree between the machines of a run."""
    from importlib.metadata import version

    import photon

    return {"photon": photon.__version__, "torch": version("torch")}
