"""Commits of rounds, written behind the training of the next ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from photon.chain.ledger import Chain
from photon.chain.link import Link
from photon.chain.said import REDRAWN, Said
from photon.core.messages import ServerState
from photon.machine.write_behind import WriteBehind
from photon.run.base import Base, base_ref, difference_of, received_of
from photon.run.checkpoint import prune_checkpoints, round_path, save_server_state, sent_file


class Commits:
    """Writes one committed round after the other, while the parameters in it stay as they are.

    Args:
        folder: of the checkpoints.
        first: the round that is committed there.
        kept: checkpoints that stay.
        committed: called after each commit, in the thread that writes.
        chain: gets a link of each commit.

    Attributes:
        ref: of the container of all that clients receive of the last state.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        kept: int,
        committed: Callable[[], None],
        chain: Chain | None = None,
    ) -> None:
        self.folder, self.kept, self.committed, self.chain = folder, kept, committed, chain
        self._behind = WriteBehind(1)
        self._last: Future[None] | None = None
        file, self.ref = sent_file(round_path(folder, first))
        self._base: Future[Path] = Future()
        self._base.set_result(file)
        prune_checkpoints(folder, kept)  # a process that was killed may have left that

    def add(
        self, state: ServerState, record: Mapping[str, Any] | None, said: Said = REDRAWN
    ) -> None:
        """Begin to commit a state, which must not change until `settle` has returned: then it is on
        disk.

        Args:
            record: the round's line of metrics.jsonl.
            said: of the round that made it.

        Raises:
            StorageError: that of the commit before.
        """
        self.settle()
        self.ref, base = base_ref(received_of(state)), Future[Path]()
        self._behind.enter()
        self._behind.hold()
        self._base, self._last = base, self._behind.submit(self._write, state, record, said, base)

    def _write(
        self,
        state: ServerState,
        record: Mapping[str, Any] | None,
        said: Said,
        base: Future[Path],
    ) -> None:
        links: list[Link] = []

        def linked(digests: Mapping[str, str]) -> str | None:
            links.extend([self.chain.made(state, said, record, digests)] if self.chain else [])
            return links[0].line().decode() if links else None

        try:
            save_server_state(self.folder, state, record, self.ref, base.set_result, linked)
            if self.chain and links:
                self.chain.append(links[0])
            prune_checkpoints(self.folder, self.kept)
        except BaseException as error:
            if not base.done():
                base.set_exception(error)
            raise
        self.committed()

    def go(self) -> None:
        """Begin to write what was added last, now that clients are to be trained; see `hold`."""
        self._behind.go()

    def base(self, state: ServerState, names: tuple[str, ...] | None) -> Base:
        """What clients of the next round start from; its file may still be being written.

        Args:
            names: parameters that they receive; None: all.
        """
        ref = self.ref if names is None else base_ref(received_of(state, names))
        difference = difference_of(state, ref)
        return Base(received_of(state), ref, self._base, difference, state.is_seeded)

    @property
    def has_failed(self) -> bool:
        last = self._last
        return last is not None and last.done() and last.exception() is not None

    def settle(self) -> None:
        """Wait until what was added is durable.

        Raises:
            StorageError: it cannot be written.
        """
        if self._last is not None:
            self._behind.go()
            self._last.result()
            self._last = None

    def close(self) -> None:
        """Wait until nothing is written any more."""
        self._behind.close()
