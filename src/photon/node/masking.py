"""Clients of this node in sessions of secure aggregation: their secrets stay in this process.

A node that is started anew has none: its clients have dropped out of the open session. What they
have trained is kept, and is masked anew in the next one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from photon.config.federation import Federation
from photon.container.container import write_container
from photon.core.gate import GRADIENT
from photon.core.messages import Update
from photon.data.manifest import write_json
from photon.errors import PayloadError, PhotonError
from photon.node.mailbox import Mailbox
from photon.run import checkpoint
from photon.secure.member import Member, mask_numbers
from photon.secure.payload import facts_of, tensors_of
from photon.secure.terms import PublicKeys, Terms
from photon.wire.enrolment import format_clients
from photon.wire.messages import Agree, MaskNumbers, Reveal, ShareKeys, Ticket, Told

T = TypeVar("T")
Question = Agree | ShareKeys | MaskNumbers | Reveal
REVEALED = "revealed.json"
"""In a client's folder: for which survivors it has told shares."""


class Masking:
    """Args:
    clients: folder of the clients of the run that is hosted.
    federation: of that run.
    mailbox: where masked updates wait to be fetched.
    threads: that mask.
    should_stop: asked while masked updates leave.
    """

    def __init__(
        self,
        run: str,
        clients: Path,
        federation: Federation,
        mailbox: Mailbox,
        threads: int,
        should_stop: Callable[[], bool],
    ) -> None:
        self.run, self.clients, self.federation = run, clients, federation
        self._mailbox, self._threads, self._should_stop = mailbox, threads, should_stop
        self._members: dict[int, Member] = {}
        self._session, self._lock = "", threading.Lock()

    def answer(self, question: Question) -> Told:
        """Raises:
        PayloadError: it is not of the open session, or its terms are not this node's.
        """
        with self._lock:
            if isinstance(question, Agree):
                return self._agree(question)
            if question.session != self._session:
                raise PayloadError("secure aggregation: keys of that session are not here")
            match question:
                case ShareKeys():
                    return self._share(question)
                case MaskNumbers():
                    return self._mask(question)
                case Reveal():
                    return self._reveal(question)

    def _agree(self, asked: Agree) -> Told:
        said = asked.model_dump(exclude={"kind", "clients", "parties"})
        terms = Terms(**said, clients=tuple(asked.parties))
        fl = self.federation
        fault = terms.fault(asked.clients, fl.fewest_masked)
        if terms.run != self.run or not fl.secure_aggregation:
            fault = "another run than is hosted here"
        if fault or (terms.cohort, terms.alike) != (fl.cohort_size, fl.privacy.is_on):
            others = f"a cohort of {terms.cohort}, or weights, that are not the run's"
            raise PayloadError(f"secure aggregation: {fault or others}")
        self._session, self._members = terms.session, {}

        def begin(client: int) -> bytes:
            self._update(client, terms)
            self._members[client] = Member(terms, client)
            return b"".join(self._members[client].keys)

        told, failed = _each(asked.clients, begin)
        return Told(keys=told, failed=failed)

    def _share(self, asked: ShareKeys) -> Told:
        keys = {c: PublicKeys(its[:32], its[32:64], its[64:]) for c, its in asked.keys.items()}
        own = [client for client in self._members if client in keys]
        told, failed = _each(own, lambda client: self._members[client].share(keys))
        return Told(shares=told, failed=failed)

    def _mask(self, asked: MaskNumbers) -> Told:
        with ThreadPoolExecutor(self._threads, "mask") as pool:

            def mask(client: int) -> Ticket:
                return self._masked(client, asked, pool)

            told, failed = _each(asked.sealed, mask)
        return Told(updates=told, failed=failed)

    def _masked(self, client: int, asked: MaskNumbers, pool: ThreadPoolExecutor) -> Ticket:
        member = self._member(client)
        with_masks = member.masked_by(asked.sealed[client])
        update, scratch = self._update(client, member.terms), _Scratch(self._mailbox.folder, client)
        trees = {GRADIENT: update.gradient, **update.moments}
        try:
            numbers = mask_numbers(
                trees, update.num_tokens, member.terms, with_masks, scratch.make, pool
            )
            path = self._mailbox.folder / f"client_{client}"
            ref = write_container(path, tensors_of(numbers), facts_of(member.terms, client, trees))
        finally:
            scratch.remove()
        return self._mailbox.offer(path, ref, asked.upload.get(client, {}), self._should_stop)

    def _reveal(self, asked: Reveal) -> Told:
        def reveal(client: int) -> dict[int, bytes]:
            told = self._member(client).reveal(asked.survivors)
            self._note(client, asked.survivors)
            return told

        told, failed = _each(asked.clients, reveal)
        return Told(shares=told, failed=failed)

    def _member(self, client: int) -> Member:
        if client not in self._members:
            raise PayloadError(f"secure aggregation: client {client} has no keys here")
        return self._members[client]

    def _note(self, client: int, survivors: Iterable[int]) -> None:
        """Remember for whom a client tells shares: of one update, the sums of two sets would differ
        by those of single clients.

        Raises:
            PayloadError: it has told them for other survivors.
        """
        terms, noted = self._members[client].terms, self._noted(client)
        now = {"base": terms.base_digest, "survivors": sorted(survivors)}
        before = noted.get(str(terms.round), now)
        if before["base"] == now["base"] and before["survivors"] != now["survivors"]:
            raise PayloadError(
                "its update is in a sum that has been opened, of clients "
                f"{format_clients(before['survivors'])}: no sum of others may be; bring all of "
                "them back, or give the round up with fl.failed_rounds=skip"
            )
        write_json(self._home(client) / REVEALED, noted | {str(terms.round): now})

    def _noted(self, client: int) -> dict[str, Any]:
        """For whom it has told shares, by round, as long as the update of that is here: a server
        that goes back asks for one of them again.
        """
        path = self._home(client) / REVEALED
        noted = _read(path) if path.exists() else {}
        if "round" in noted:  # as older versions wrote it, of the last one
            noted = {str(noted["round"]): noted}
        answer = partial(checkpoint.answer_path, self.clients, client)
        return {number: one for number, one in noted.items() if answer(int(number)).exists()}

    def _home(self, client: int) -> Path:
        return checkpoint.answer_path(self.clients, client, 0).parent

    def _update(self, client: int, terms: Terms) -> Update:
        """What a client has trained.

        Raises:
            PayloadError: nothing for that round and base is kept here.
        """
        path = checkpoint.answer_path(self.clients, client, terms.round)
        update = checkpoint.load_update(path) if path.exists() else None
        if update is None or (update.run, update.base_digest) != (terms.run, terms.base_digest):
            raise PayloadError("its update is not here")
        return update


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise PayloadError(f"{path}: unreadable, so that no share may be told") from None


class _Scratch:
    """Memory for masked numbers, in files: gigabytes need not fit."""

    def __init__(self, folder: Path, client: int) -> None:
        self._path = folder / f"masked_{client}"
        self._made: list[Path] = []

    def make(self, tree: str, count: int, kind: np.dtype) -> np.ndarray:
        path = self._path.with_name(f"{self._path.name}_{len(self._made)}")
        self._made.append(path)
        return np.memmap(path, kind, "w+", shape=(max(1, count),))[:count]

    def remove(self) -> None:
        for path in self._made:
            with suppress(OSError):
                path.unlink()


def _each(clients: Iterable[int], ask: Callable[[int], T]) -> tuple[dict[int, T], dict[int, str]]:
    """What comes of each client, and why of the others nothing does."""
    told: dict[int, T] = {}
    failed: dict[int, str] = {}
    for client in clients:
        try:
            told[client] = ask(client)
        except (PhotonError, OSError) as error:
            failed[client] = str(error)
    return told, failed
