"""A saved model, wherever it lies in a run: its configuration, parameters and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from photon.config.federation import Federation
from photon.config.schema import Config
from photon.data.prepare.encode import Encoder
from photon.errors import CheckpointError, ConfigError
from photon.model.build import empty_model, parameters_of
from photon.run import artifact, checkpoint
from photon.run.own_layers import NO_ONE, OwnLayers, own_layers
from photon.run.run_folder import read_run
from photon.run.run_tokens import encoder_of_run


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What a checkpoint speaks for.

    Attributes:
        run: its run folder.
        manifest: its file.
        params: mapped from the file.
        encoder: its tokenizer, used as in training.
        own: what the clients keep to themselves; None where all parameters are everybody's.
        client: whose layers are among the parameters; None: the server's copy.
    """

    run: Path
    manifest: Path
    config: Config
    params: dict[str, Tensor]
    encoder: Encoder
    own: OwnLayers | None = None
    client: int | None = None

    @property
    def scores(self) -> Path:
        """Where results of evaluations go."""
        whose = "" if self.client is None else f"client-{self.client}"
        return self.run / "evaluation" / whose / self.manifest.stem

    @property
    def somebody(self) -> int | None:
        """A client whose model can be shown; None where it is everybody's, or nobody's is here."""
        return next(iter(self.own.here), None) if self.own is not None else None

    def of(self, client: int | None) -> SavedModel:
        """The model that a client has; without one, the model that all have.

        Raises:
            ConfigError: there is no model of all, or none of that client.
            CheckpointError: the client's layers are not on this machine.
        """
        if self.own is None:
            if client is None:
                return self
            raise ConfigError(
                f"--client {client}: {self.run} has no fl.personalized_layers, so its model is the "
                "same for all clients; leave the option out"
            )
        if client is None:
            raise ConfigError(f"{self.run}: {NO_ONE}; name a client of it with --client N")
        if client not in self.own.answers:
            there = ", ".join(map(str, self.own.answers)) or "none"
            raise ConfigError(
                f"--client {client}: has not trained in {self.run} up to {self.manifest.stem}; "
                f"those that have: {there}"
            )
        params = {**self.params, **self.own.read(client)}
        return replace(self, params=params, own=None, client=client)


def resolve_checkpoint(path: Path) -> tuple[Path, Path]:
    """Run folder and manifest of what a user named.

    Args:
        path: a run folder (its newest checkpoint) or a checkpoint's manifest.

    Raises:
        CheckpointError: nothing of that kind is there.
    """
    if (path / "run.json").exists() or (path / "checkpoints").is_dir():
        return path, checkpoint.newest_checkpoint(path / "checkpoints")
    if path.is_file() and path.parent.name == "checkpoints":
        return path.parent.parent, path
    if (path / "config.json").is_file():
        raise CheckpointError(
            f"{path}: is no run but a Hugging Face folder; `photon import {path} runs/NAME` makes "
            "one of it"
        )
    raise CheckpointError(
        f"{path}: no such run folder or checkpoint (RUN or RUN/checkpoints/NAME.json)"
    )


def load_saved_model(path: Path) -> SavedModel:
    """Load what `resolve_checkpoint` finds: the server's parameters, see `SavedModel.of`.

    Raises:
        CheckpointError: nothing of that kind is there.
        CorruptCheckpoint: the bytes are not what was written.
    """
    run, manifest = resolve_checkpoint(path)
    try:
        return _load(run, manifest)
    except CheckpointError:
        if manifest.exists() or manifest == path:
            raise
    return load_saved_model(path)  # a run that trains has removed it meanwhile: it has a newer one


def _load(run: Path, manifest: Path) -> SavedModel:
    config, facts = read_run(run)
    params = checkpoint.load_with_way_back(manifest, checkpoint.load_model)
    like = parameters_of(empty_model(config.inner))
    checkpoint.require_same_model(params, like, manifest)
    encoder = encoder_of_run(run, facts)
    return SavedModel(
        run, manifest, config, params, encoder, _own(run, manifest, config.federation)
    )


def _own(run: Path, manifest: Path, federation: Federation) -> OwnLayers | None:
    """Only a server's checkpoint leaves layers to clients: a centralised run trains them all."""
    state = artifact.read(manifest).facts["state"]
    if "last_accepted" not in state:
        return None
    return own_layers(federation, run, state["last_accepted"])
