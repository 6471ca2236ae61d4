"""The states of `core.messages` and `training.loop` as artifacts on disk, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from photon.core.loss_scale import LossScale
from photon.core.messages import ClientState, Moments, ServerState, StreamState, Update
from photon.core.tree import Tree, mismatch, num_bytes
from photon.errors import (
    CheckpointError,
    CorruptCheckpoint,
    MismatchedCheckpoint,
    NonFiniteLoss,
    PayloadError,
)
from photon.run import artifact
from photon.run.going_on import how_to_go_on
from photon.run.run_folder import read_facts
from photon.training.state import TrainState
from photon.wire.facts import parse_facts
from photon.wire.payload import open_payload

T = TypeVar("T")


def pack(trees: Mapping[str, Tree | Mapping[str, Tree]]) -> dict[str, Tensor]:
    """Flatten named trees into one level: `params/blocks.0...`, `moments/exp_avg/...`."""
    flat: dict[str, Tensor] = {}
    for prefix, tree in trees.items():
        for name, value in tree.items():
            if isinstance(value, Tensor):
                flat[f"{prefix}/{name}"] = value.contiguous()
            else:
                flat.update(pack({f"{prefix}/{name}": value}))
    return flat


def unpack(tensors: Tree, prefix: str, order: list[str]) -> dict[str, Tensor]:
    """One tree back, its names in the given order (safetensors files sort by name)."""
    return {name: tensors[f"{prefix}/{name}"] for name in order}


def _names(moments: Mapping[str, Tree]) -> dict[str, list[str]]:
    return {moment: list(tree) for moment, tree in moments.items()}


def _moments(tensors: Tree, prefix: str, names: Mapping[str, list[str]]):
    return {moment: unpack(tensors, f"{prefix}/{moment}", order) for moment, order in names.items()}


def save_server_state(
    folder: Path, state: ServerState, record: Mapping[str, Any] | None = None
) -> Path:
    """Commit a round: once this returns, it has happened.

    Args:
        record: the round's line of metrics.jsonl, which a crash may tear.
    """
    tensors = pack(
        {
            "params": state.params,
            "outer": state.outer,
            "moments": state.moments,
            "residual": state.residual,
        }
    )
    facts = {
        "kind": "server",
        "names": list(state.params),
        "outer": _names(state.outer),
        "moments": _names(state.moments),
        "residual": _names(state.residual),
        "round": state.round,
        "step": state.step,
        "num_tokens": state.num_tokens,
        "last_accepted": {str(client): r for client, r in state.last_accepted.items()},
        "bytes_up": state.bytes_up,
        "bytes_down": state.bytes_down,
        "train_seconds": state.train_seconds,
        "norms": list(state.norms),
        "norm_steps": list(state.norm_steps),
        "bases": {str(number): base for number, base in state.bases.items()},
        "speeds": {str(client): speed for client, speed in state.speeds.items()},
        "noise": dict(state.noise),
        "record": None if record is None else dict(record),
    }
    return artifact.save(folder, f"round_{state.round:06d}", tensors, facts)


def load_server_state(path: Path) -> ServerState:
    """Read a committed round; `path` is its manifest."""
    tensors, facts = _load(path, "server")
    order = facts["names"]
    return ServerState(
        round=facts["round"],
        step=facts["step"],
        params=unpack(tensors, "params", order),
        outer=_moments(tensors, "outer", facts["outer"]),
        moments=_moments(tensors, "moments", facts["moments"]),
        num_tokens=facts["num_tokens"],
        last_accepted={int(client): r for client, r in facts["last_accepted"].items()},
        bytes_up=facts["bytes_up"],
        bytes_down=facts["bytes_down"],
        train_seconds=facts["train_seconds"],
        norms=tuple(facts["norms"]) if "norm_steps" in facts else (),
        norm_steps=tuple(facts.get("norm_steps", ())),
        bases={int(number): base for number, base in facts.get("bases", {}).items()},
        speeds={int(client): speed for client, speed in facts.get("speeds", {}).items()},
        noise=facts.get("noise", {}),
        residual=_moments(tensors, "residual", facts.get("residual", {})),
    )


def save_train_state(
    folder: Path, name: str, state: TrainState, extra: Mapping[str, Any] | None = None
) -> Path:
    """Save what the training loop needs to go on.

    Args:
        extra: facts of the caller (round, base digest, seconds), given back on loading.
    """
    facts = {
        "kind": "train",
        "names": list(state.params),
        "moments": _names(state.moments),
        "optimizer_step": state.optimizer_step,
        "step": state.step,
        "steps_done": state.steps_done,
        "num_tokens": state.num_tokens,
        "loss_sum": state.loss_sum,
        "skipped_steps": state.skipped_steps,
        "loss_scale": asdict(state.loss_scale),
        "streams": [asdict(stream) for stream in state.streams],
        "extra": dict(extra or {}),
    }
    tensors = pack({"params": state.params, "moments": state.moments})
    return artifact.save(folder, name, tensors, facts)


def load_train_state(path: Path) -> tuple[TrainState, dict[str, Any]]:
    """The saved state and the caller's facts."""
    tensors, facts = _load(path, "train")
    state = TrainState(
        params=unpack(tensors, "params", facts["names"]),
        moments=_moments(tensors, "moments", facts["moments"]),
        optimizer_step=facts["optimizer_step"],
        step=facts["step"],
        steps_done=facts["steps_done"],
        num_tokens=facts["num_tokens"],
        loss_sum=facts["loss_sum"],
        skipped_steps=facts["skipped_steps"],
        loss_scale=LossScale(**facts["loss_scale"]),
        streams=tuple(StreamState(**stream) for stream in facts["streams"]),
    )
    return state, facts["extra"]


def save_answer(folder: Path, update: Update, state: ClientState) -> Path:
    """Keep what a client did in a round, its update and its state, durably in one artifact."""
    tensors, facts = update_parts(update)
    after = {
        "stream": asdict(state.stream),
        "moments": _names(state.moments),
        "optimizer_step": state.optimizer_step,
        "loss_scale": asdict(state.loss_scale),
        "layers": list(state.layers),
        "residual": _names(state.residual),
    }
    kept = {"moments": state.moments, "layers": state.layers, "residual": state.residual}
    tensors |= pack({f"state/{name}": tree for name, tree in kept.items()})
    return artifact.save(folder, answer_name(update.round), tensors, {**facts, "state": after})


def answer_name(round_number: int) -> str:
    """Name of what a client kept of a round."""
    return f"round_{round_number:06d}"


def load_client_state(path: Path) -> ClientState:
    """A client's state after the round whose answer lies at `path`."""
    tensors, facts = _load(path, "update")
    after = facts["state"]
    return ClientState(
        round=facts["round"],
        stream=StreamState(**after["stream"]),
        moments=_moments(tensors, "state/moments", after["moments"]),
        optimizer_step=after["optimizer_step"],
        loss_scale=LossScale(**after["loss_scale"]),
        layers=unpack(tensors, "state/layers", after["layers"]),
        residual=_moments(tensors, "state/residual", after.get("residual", {})),
    )


def update_parts(update: Update) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts that make up an update, on disk and on the wire."""
    facts = {
        "kind": "update",
        "names": list(update.gradient),
        "moments": _names(update.moments),
        **{
            key: getattr(update, key)
            for key in (
                "run",
                "round",
                "client",
                "num_tokens",
                "num_steps",
                "base_digest",
                "metrics",
                "state_lost",
                "covers",
            )
        },
    }
    return pack({"gradient": update.gradient, "moments": update.moments}), facts


_NOT_SAID = ("kind", "state", "num_bytes")
"""Facts beside an update; bytes were one of them once."""


def load_update(path: Path) -> Update:
    """An update with memory-mapped tensors."""
    return update_of(*_load(path, "update"))


def update_of(tensors: Tree, facts: Mapping[str, Any]) -> Update:
    """The update that `update_parts` took apart, whoever says so: its bytes are counted here.

    Raises:
        PayloadError: these are not the parts of one.
    """
    said = parse_facts({k: v for k, v in facts.items() if k not in _NOT_SAID})
    try:
        gradient = unpack(tensors, "gradient", said.names)
        moments = _moments(tensors, "moments", said.moments)
    except KeyError as error:
        raise PayloadError(f"not an update: no tensor {error}") from None
    return Update(
        gradient=gradient,
        moments=moments,
        num_bytes=num_bytes(gradient) + sum(map(num_bytes, moments.values())),
        **said.model_dump(exclude={"names", "moments"}),
    )


def base_parts(
    state: ServerState, sent: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What clients receive of a server's state: parameters, and averaged moments.

    Args:
        sent: parameters that clients receive; None: all.
    """
    names = list(state.params if sent is None else sent)
    facts = {"kind": "base", "names": names, "moments": _names(state.moments)}
    params = {name: state.params[name] for name in names}
    return pack({"params": params, "moments": state.moments}), facts


def load_base(path: Path) -> tuple[dict[str, Tensor], Moments]:
    """Parameters and averaged moments of a server's checkpoint, or of the payload made of one."""
    if path.suffix == ".json":
        state = load_server_state(path)
        return dict(state.params), state.moments
    tensors, facts = open_payload(path)
    try:
        params = unpack(tensors, "params", facts["names"])
        return params, _moments(tensors, "moments", facts["moments"])
    except (KeyError, TypeError, AttributeError) as error:
        raise PayloadError(f"{path}: not a base: {type(error).__name__} {error}") from None


def _load(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, facts = artifact.load(path)
    if facts.get("kind") != kind:
        raise CheckpointError(f"{path}: holds a {facts.get('kind')} state, not a {kind} state")
    return tensors, facts


def load_parameters(path: Path, *, verify: bool = True) -> dict[str, Tensor]:
    """Parameters of a server's or a centralised run's checkpoint."""
    tensors, facts = artifact.load(path, verify=verify)
    if facts.get("kind") not in ("server", "train"):
        raise CheckpointError(f"{path}: holds no model")
    return unpack(tensors, "params", facts["names"])


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
            facts = artifact.load_facts(path)
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
    for path in reversed(list_checkpoints(folder)):
        with suppress(CheckpointError):
            if path.stem < damaged.stem and artifact.load(path):
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


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in list_checkpoints(folder)[:-keep]:
        artifact.remove(folder, path.stem)
