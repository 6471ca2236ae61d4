"""The states of `core.messages` and `training.loop` as artifacts on disk, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from photon.container.container import ContainerRef, open_container
from photon.core.messages import Broadcast, ClientState, Norm, Origin, ServerState, Update
from photon.core.outer import EMA
from photon.core.parts import from_parts, parts_of
from photon.core.tree import Tree, mismatch
from photon.core.trust.reputation import Reputation
from photon.errors import (
    CheckpointError,
    CorruptCheckpoint,
    MismatchedCheckpoint,
    NonFiniteLoss,
    PayloadError,
)
from photon.run import artifact
from photon.run.artifact import Artifact
from photon.run.base import received_of
from photon.run.going_on import how_to_go_on
from photon.run.run_folder import NUMBERED, list_checkpoints, number_of, read_facts
from photon.training.state import TrainState

T = TypeVar("T")
BASE, OWN, UPDATE, AHEAD = "base", "own", "update", "ahead"
"""Containers of an artifact: what clients hold, what is not sent at all, what a client sends, and
parameters that clients have been told of with what a codec left of them.
"""
KINDS = ("server", "train")


def _tensors(saved: Artifact) -> dict[str, Tensor]:
    return {**saved.load(BASE)[0], **saved.load(OWN)[0]}


def _value(path: Path, kind: type[T], tensors: Tree, facts: Mapping[str, Any]) -> T:
    try:
        return from_parts(kind, tensors, facts)
    except PayloadError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _read(path: Path, *kinds: str) -> Artifact:
    saved = artifact.read(path)
    if (found := saved.facts.get("kind")) not in kinds:
        raise CheckpointError(f"{path}: holds a {found} state, not a {' or '.join(kinds)} state")
    require_own_name(path, saved)
    return saved


def require_own_name(path: Path, saved: Artifact) -> None:
    """CorruptCheckpoint: the manifest of a round or step lies under the name of another one."""
    if NUMBERED.fullmatch(path.stem) is None:
        return
    what = path.stem.partition("_")[0]
    state = saved.facts.get("state")
    if not isinstance(state, dict) or what not in state:
        raise CorruptCheckpoint(f"{path}: holds no state of a {what}")
    if (own := state[what]) != number_of(path):
        raise CorruptCheckpoint(f"{path}: holds {what} {own}: it is a copy of another checkpoint")


def verified(path: Path) -> Artifact:
    """A checkpoint under its own name, of which every byte is as it was written.

    Raises:
        CheckpointError: it is not.
    """
    saved = artifact.read(path)
    require_own_name(path, saved)
    for part in saved.files:
        saved.load(part)
    return saved


def save_server_state(
    folder: Path,
    state: ServerState,
    record: Mapping[str, Any] | None = None,
    base: ContainerRef | None = None,
    base_there: Callable[[Path], object] = lambda file: None,
    linked: Callable[[Mapping[str, str]], str | None] = lambda digests: None,
) -> Path:
    """Commit a round: once this returns, it has happened.

    Args:
        record: the round's line of metrics.jsonl, which a crash may tear.
        base: of `run.base.base_ref`, so that the base is not hashed again.
        base_there: takes the file of the base as soon as it can be read.
        linked: gives the commit's link of the run's history, of the digests of its containers.
    """

    def there(part: str, file: Path) -> None:
        if part == BASE:
            base_there(file)

    tensors, facts = parts_of(state)
    sent = parts_of(received_of(state))
    own = {
        n: v for n, v in tensors.items() if n.partition("/")[0] not in ("params", "moments", "held")
    }
    parts = {BASE: sent, OWN: (own, {})}
    if state.held:
        parts[AHEAD] = ({f"params/{name}": state.params[name] for name in state.held}, {})
    manifest = {
        "kind": "server", "state": facts, "record": None if record is None else dict(record)
    }  # fmt: skip
    name = round_path(folder, state.round).stem
    return artifact.save(
        folder, name, parts, manifest, {BASE: base} if base else {}, there,
        lambda digests: {} if (link := linked(digests)) is None else {"link": link},
    )  # fmt: skip


def round_path(checkpoints: Path, round_number: int) -> Path:
    """The manifest of a committed round."""
    return checkpoints / f"round_{round_number:06d}.json"


def load_server_state(path: Path) -> ServerState:
    """Read a committed round; `path` is its manifest."""
    saved = _read(path, "server")
    tensors, ahead = _tensors(saved), _ahead(saved)
    held = {f"held/{n.partition('/')[2]}": tensors[n] for n in ahead}
    facts = _of_today(saved.facts["state"])
    return _value(path, ServerState, {**tensors, **held, **ahead}, facts)


def _of_today(written: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a server's state, where an earlier Photon may have written them."""
    facts = dict(written)
    if not isinstance(moved := facts.get("moved", []), list):  # one number once, of all fragments
        facts["moved"] = [] if moved is None else [moved]
    if "norm_steps" in facts:  # a list once of each number of a norm; of fragments the latest
        steps, rates = facts.pop("norm_steps"), facts.pop("norm_rates", [])
        noted = facts.pop("norm_fragments", [])
        fragments = [0] * (len(steps) - len(noted)) + noted
        each = zip(facts["norms"], steps, rates, fragments, strict=False)
        facts["norms"] = [asdict(Norm(*one)) for one in each]
    if "reputation" not in facts:  # its fields were the state's own once
        own = [one.name for one in fields(Reputation)]
        facts["reputation"] = {name: facts.pop(name) for name in own if name in facts}
    return facts


def _ahead(saved: Artifact, *, verify: bool = True) -> dict[str, Tensor]:
    """Parameters of which clients hold others."""
    return saved.load(AHEAD, verify=verify)[0] if AHEAD in saved.files else {}


def save_train_state(
    folder: Path, name: str, state: TrainState, extra: Mapping[str, Any] | None = None
) -> Path:
    """Save what the training loop needs to go on.

    Args:
        extra: facts of the caller (round, base digest, seconds), given back on loading.
    """
    tensors, facts = parts_of(state)
    base = {n: value for n, value in tensors.items() if n.partition("/")[0] == "params"}
    own = {n: value for n, value in tensors.items() if n not in base}
    manifest = {"kind": "train", "state": facts, "extra": dict(extra or {})}
    return artifact.save(folder, name, {BASE: (base, {}), OWN: (own, {})}, manifest)


def load_train_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """The saved state and the caller's facts."""
    saved = _read(path, "train")
    return _value(path, TrainState, _tensors(saved), saved.facts["state"]), saved.facts["extra"]


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
    saved = _read(path, "client")
    ref = saved.file(UPDATE)[1]
    update = _value(path, Update, *saved.load(UPDATE, verify=verify))
    return replace(update, origin=Origin(ref.digest, ref.size))


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
    saved = _read(path, *KINDS)
    tensors, facts = saved.load(BASE, verify=verify)
    tensors = {**tensors, **_ahead(saved, verify=verify)}
    return dict(_value(path, Broadcast, tensors, facts).params)


def load_model(path: Path) -> dict[str, Tensor]:
    """What a checkpoint gives out: of a server the average of its rounds, where it keeps one."""
    params, saved = load_parameters(path), _read(path, *KINDS)
    average = {f"outer/{EMA}/{name}": name for name in params}
    if average.keys().isdisjoint(saved.load(OWN, verify=False)[0]):
        return params
    own = saved.load(OWN)[0]
    return params | {name: own[key] for key, name in average.items() if key in own}


def require_same_model(params: Tree, like: Tree, path: Path) -> None:
    """Refuse a checkpoint whose parameters are not those of the configured model.

    Raises:
        MismatchedCheckpoint: naming the first parameter that differs.
    """
    if reason := mismatch(params, like):
        raise MismatchedCheckpoint(f"{path}: is of another model: {reason}")


def steps_done(path: Path) -> int:
    """Steps of the run that the state of a manifest has behind it."""
    return artifact.read(path).facts["state"]["step"]


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
    folder, number = damaged.parent, number_of(damaged)
    for path in reversed([p for p in list_checkpoints(folder) if number_of(p) < number]):
        with suppress(CheckpointError):
            verified(path)
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
