"""The states of `core.messages` and `training.loop` as artifacts on disk, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from photon.container.container import ContainerRef, open_container
from photon.core.messages import Broadcast, ClientState, ServerState, Update
from photon.core.parts import from_parts, parts_of
from photon.core.tree import Tree, mismatch
from photon.errors import (
    CheckpointError,
    CorruptCheckpoint,
    MismatchedCheckpoint,
    NonFiniteLoss,
    PayloadError,
)
from photon.run import artifact
from photon.run.artifact import Artifact
from photon.run.going_on import how_to_go_on
from photon.run.run_folder import read_facts
from photon.training.state import TrainState

T = TypeVar("T")
S = TypeVar("S", ServerState, TrainState)
BASE, OWN, UPDATE = "base", "own", "update"
"""Containers of an artifact: what clients receive, what is not sent at all, what a client sends."""
KINDS = {"server": ("params", "moments"), "train": ("params",)}
"""Kind of a state -> its fields in the base: parameters can be read without the rest."""


def _save(
    folder: Path,
    name: str,
    kind: str,
    state: ServerState | TrainState,
    beside: Mapping[str, Any],
    refs: Mapping[str, ContainerRef] | None = None,
    there: Callable[[str, Path], object] = lambda part, file: None,
) -> Path:
    tensors, facts = parts_of(state)
    base = {n: value for n, value in tensors.items() if n.partition("/")[0] in KINDS[kind]}
    own = {n: value for n, value in tensors.items() if n not in base}
    parts = {BASE: (base, {}), OWN: (own, {})}
    return artifact.save(folder, name, parts, {"kind": kind, "state": facts, **beside}, refs, there)


def _load(path: Path, kind: str, of: type[S]) -> tuple[S, Mapping[str, Any]]:
    saved = _read(path, kind)
    tensors = {**saved.load(BASE)[0], **saved.load(OWN)[0]}
    return _value(path, of, tensors, saved.facts["state"]), saved.facts


def _value(path: Path, kind: type[T], tensors: Tree, facts: Mapping[str, Any]) -> T:
    try:
        return from_parts(kind, tensors, facts)
    except PayloadError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read(path: Path, *kinds: str) -> Artifact:
    saved = artifact.read(path)
    if (found := saved.facts.get("kind")) not in kinds:
        raise CheckpointError(f"{path}: holds a {found} state, not a {' or '.join(kinds)} state")
    return saved


def save_server_state(
    folder: Path,
    state: ServerState,
    record: Mapping[str, Any] | None = None,
    base: ContainerRef | None = None,
    base_there: Callable[[Path], object] = lambda file: None,
) -> Path:
    """Commit a round: once this returns, it has happened.

    Args:
        record: the round's line of metrics.jsonl, which a crash may tear.
        base: of `run.base.base_ref`, so that the base is not hashed again.
        base_there: takes the file of the base as soon as it can be read.
    """

    def there(part: str, file: Path) -> None:
        if part == BASE:
            base_there(file)

    name = round_path(folder, state.round).stem
    beside = {"record": None if record is None else dict(record)}
    return _save(folder, name, "server", state, beside, {BASE: base} if base else {}, there)


def round_path(checkpoints: Path, round_number: int) -> Path:
    """The manifest of a committed round."""
    return checkpoints / f"round_{round_number:06d}.json"


def load_server_state(path: Path) -> ServerState:
    """Read a committed round; `path` is its manifest."""
    return _load(path, "server", ServerState)[0]


def save_train_state(
    folder: Path, name: str, state: TrainState, extra: Mapping[str, Any] | None = None
) -> Path:
    """Save what the training loop needs to go on.

    Args:
        extra: facts of the caller (round, base digest, seconds), given back on loading.
    """
    return _save(folder, name, "train", state, {"extra": dict(extra or {})})


def load_train_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """The saved state and the caller's facts."""
    state, facts = _load(path, "train", TrainState)
    return state, facts["extra"]


def answer_path(clients: Path, client: int, round_number: int) -> Path:
    """The manifest of what a client keeps of a round: its update, and its own state after it.

    Args:
        clients: folder of a run's clients.
    """
    return clients / f"client_{client}" / f"round_{round_number:06d}.json"


def save_answer(clients: Path, update: Update, state: ClientState) -> Path:
    """Keep what a client did in a round, durably: both have happened, or neither."""
    path = answer_path(clients, update.client, update.round)
    tensors, facts = parts_of(state)
    parts = {UPDATE: parts_of(update), OWN: (tensors, {})}
    return artifact.save(path.parent, path.stem, parts, {"kind": "client", "state": facts})


def load_client_state(path: Path, *, verify: bool = True) -> ClientState:
    """A client's state after the round whose answer lies at `path`."""
    saved = _read(path, "client")
    return _value(path, ClientState, saved.load(OWN, verify=verify)[0], saved.facts["state"])


def load_update(path: Path, *, verify: bool = False) -> Update:
    """The update of an answer, with memory-mapped tensors.

    Args:
        verify: whether it may have been written before this process began.
    """
    return _value(path, Update, *_read(path, "client").load(UPDATE, verify=verify))


def sent_file(path: Path) -> tuple[Path, ContainerRef]:
    """The container of an artifact that travels: the base of a server's state, or an update."""
    saved = _read(path, "server", "client")
    return saved.file(BASE if BASE in saved.files else UPDATE)


def load_base(path: Path) -> Broadcast:
    """The base in a server's checkpoint, or in a container that has come; verified before.

    Raises:
        PayloadError: it is none.
    """
    if path.suffix != ".json":
        return from_parts(Broadcast, *open_container(path))
    return from_parts(Broadcast, *_read(path, "server").load(BASE, verify=False))


def load_parameters(path: Path, *, verify: bool = True) -> dict[str, Tensor]:
    """Parameters of a server's or a centralised run's checkpoint."""
    return dict(_value(path, Broadcast, *_read(path, *KINDS).load(BASE, verify=verify)).params)


def require_same_model(params: Tree, like: Tree, path: Path) -> None:
    """Refuse a checkpoint whose parameters are not those of the configured model.

    Raises:
        MismatchedCheckpoint: naming the first parameter that differs.
    """
    if reason := mismatch(params, like):
        raise MismatchedCheckpoint(f"{path}: is of another model: {reason}")


def list_checkpoints(folder: Path) -> list[Path]:
    """Manifests of a checkpoint folder, oldest first."""
    found = [path for path in folder.glob("*.json") if re.fullmatch(r"(round|step)_\d+", path.stem)]
    return sorted(found, key=number_of)


def number_of(path: Path) -> int:
    """The round or step of a manifest that `list_checkpoints` found."""
    return int(path.stem.split("_")[1])


def kept_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that the commits of a checkpoint folder hold, oldest first."""
    found = []
    for path in list_checkpoints(folder):
        with suppress(CheckpointError):  # its damage is told when it is used
            facts = artifact.read(path).facts
            found.append(facts.get("record") or facts.get("extra", {}).get("record"))
    return [record for record in found if record]


def load_with_way_back(path: Path, load: Callable[[Path], T]) -> T:
    """What a loader makes of a checkpoint.

    Raises:
        CorruptCheckpoint: it is damaged; the message names the last good one before it.
    """
    try:
        return load(path)
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(f"{error}; {_way_back(path)}") from error


def _way_back(damaged: Path) -> str:
    folder = damaged.parent
    for path in reversed([p for p in list_checkpoints(folder) if p.stem < damaged.stem]):
        with suppress(CheckpointError):
            saved = artifact.read(path)
            for part in saved.files:
                saved.load(part)
            back = [f"photon.resume_round={number_of(path)}"]
            command = how_to_go_on(folder.parent, read_facts(folder.parent), back)
            return f"the last good checkpoint is {path}; go back to it with: {command}"
    return f"{folder} keeps none before it that is good"


def newest_checkpoint(folder: Path) -> Path:
    """The newest manifest of a checkpoint folder.

    Raises:
        CheckpointError: there is none.
    """
    found = list_checkpoints(folder)
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint here")
    return found[-1]


@contextmanager
def naming_last_good(folder: Path) -> Iterator[None]:
    """Add the checkpoint to go back to, if there is one, to the message of a diverged training."""
    try:
        yield
    except NonFiniteLoss as error:
        found = list_checkpoints(folder)
        last = f"; last good checkpoint: {found[-1]}" if found else ""
        raise NonFiniteLoss(f"{error}{last}") from error


def prune_checkpoints(folder: Path, keep: int, spared: int | None = None) -> None:
    """Delete all but the newest `keep` checkpoints, and that of one round which is spared."""
    for path in list_checkpoints(folder)[:-keep]:
        if number_of(path) != spared:
            artifact.remove(folder, path.stem)
