"""What clients keep on disk: read ahead of their training, written behind it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from photon.core.messages import ClientState, Instruction, StreamState, Update
from photon.errors import CorruptCheckpoint
from photon.machine.write_behind import WriteBehind
from photon.run import artifact, checkpoint
from photon.training.memory import UPDATES_IN_FLIGHT
from photon.training.offload import Landing
from photon.training.state import TrainState


def states_kept(checkpoints: int) -> int:
    """Of a client whose server keeps so many checkpoints: it asks for the states of that time when
    it goes back, and has one more, a round older, while the newest is being written.
    """
    return checkpoints + 2


def _version(instruction: Instruction) -> tuple[int, int, str]:
    """Of the state that an instruction is for: of whom, after which round, come of what."""
    return instruction.client, instruction.last_accepted, instruction.descent


class ClientFiles:
    """The clients of one folder.

    Args:
        folder: one folder of a client lies in it each.
        forgets: whether clients begin every round afresh.
        kept: states of a client that stay.
    """

    def __init__(self, folder: Path, forgets: bool, kept: int) -> None:
        self.folder, self.forgets, self.kept = folder, forgets, kept
        self.behind = WriteBehind(UPDATES_IN_FLIGHT)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: dict[tuple[int, int, str], Future[tuple[ClientState, bool]]] = {}
        self._writing: dict[int, Future[Path]] = {}
        self._written: dict[int, Path] = {}  # the last one of each client

    def home(self, client: int) -> Path:
        return self.folder / f"client_{client}"

    def settle(self, client: int) -> None:
        """Wait for what is still being written of a client; errors have been told."""
        if client in self._writing:
            self.behind.go()
            self._writing[client].exception()
        self._writing = {c: future for c, future in self._writing.items() if not future.done()}

    def answer(self, instruction: Instruction) -> Path | None:
        """The answer to this very instruction, if it is kept.

        Raises:
            CorruptCheckpoint: it would be, but is damaged.
        """
        path = checkpoint.answer_path(self.folder, instruction.client, instruction.round)
        if not path.exists():
            return None
        update = checkpoint.load_update(path)
        if (update.run, update.base_digest) != (instruction.run, instruction.base_digest):
            return None
        checkpoint.load_update(path, verify=True)
        return path

    def read_ahead(self, instruction: Instruction) -> None:
        """Begin to read the state that the client of an instruction will need."""
        key = _version(instruction)
        if instruction.client not in self._writing or self._writing[instruction.client].done():
            self._ahead = {key: self._reader.submit(self._read_before, instruction)}

    def before(self, instruction: Instruction) -> tuple[ClientState, bool]:
        """The state after the last accepted update; a fresh one, and True, if that is lost, or
        another one is in its place, since the round was trained anew elsewhere.

        Raises:
            CorruptCheckpoint: it is damaged.
        """
        ahead = self._ahead.pop(_version(instruction), None)
        return self._read_before(instruction) if ahead is None else ahead.result()

    def _read_before(self, instruction: Instruction) -> tuple[ClientState, bool]:
        version = instruction.last_accepted
        fresh = ClientState(round=0, stream=StreamState())
        if version == 0 or self.forgets:
            return fresh, False
        path = checkpoint.answer_path(self.folder, instruction.client, version)
        if not path.exists():
            return fresh, True
        without = f"client {instruction.client} then begins afresh, as the round's record tells"
        with _removable(path, without):
            verify = path != self._written.get(instruction.client)
            state = checkpoint.load_client_state(path, verify=verify)
        is_another = instruction.descent not in ("", state.descent)
        return (fresh, True) if is_another else (state, False)

    def opened(self, instruction: Instruction) -> tuple[TrainState | None, bool]:
        """The open state of this round, if a segment of it was saved; and whether the base had
        arrived by then.

        Raises:
            CorruptCheckpoint: it is damaged.
        """
        path = self.home(instruction.client) / "train.json"
        if not path.exists():
            return None, False
        with _removable(path, "the client's part of the round is then trained anew"):
            state, extra = checkpoint.load_train_state(path)
        has_arrived = bool(extra.pop("has_arrived", False))
        return (state, has_arrived) if extra == asdict(instruction) else (None, False)

    def keep_open(self, instruction: Instruction, state: TrainState, has_arrived: bool) -> None:
        """Save a segment of an open round.

        Args:
            has_arrived: whether its base has taken the place of what the client began with.
        """
        extra = {**asdict(instruction), "has_arrived": has_arrived}
        checkpoint.save_train_state(self.home(instruction.client), "train", state, extra)

    def keep(
        self, instruction: Instruction, update: Update, state: ClientState, landed: Landing
    ) -> Future[Path]:
        """Keep update and state behind the caller's back, in the place of `behind` that is his.

        Args:
            landed: of their tensors, which are not read after that.

        Returns:
            Path of the answer, once it is durable.
        """
        # Of a run that goes back, what was read before is of rounds that never happened.
        self._ahead = {k: one for k, one in self._ahead.items() if k[0] != instruction.client}
        future = self.behind.submit(self._keep, instruction, update, state, landed)
        self._writing[instruction.client] = future
        return future

    def _keep(
        self, instruction: Instruction, update: Update, state: ClientState, landed: Landing
    ) -> Path:
        landed.wait()
        path = checkpoint.save_answer(self.folder, update, state)
        landed.release()
        self._written[update.client] = path
        home = self.home(update.client)
        artifact.remove(home, "train")
        checkpoint.prune_checkpoints(home, self.kept, spared=instruction.last_accepted)
        return path

    def forget(self) -> None:
        """Read what others have written since; it was not this process that verified it."""
        self._ahead.clear()
        self._written.clear()

    def close(self) -> None:
        """Wait until everything is written."""
        self._reader.shutdown()
        self.behind.close()


@contextmanager
def _removable(path: Path, without: str) -> Iterator[None]:
    """Add to the message of a damaged state what becomes of the run without it."""
    try:
        yield
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(
            f"{error}; to go on without it, remove {path}: {without}"
        ) from error
