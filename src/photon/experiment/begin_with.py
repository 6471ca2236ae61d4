"""Beginning a run with a copy of another: what of its state fits the new configuration."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from photon.chain.ledger import COPIED, hash_in
from photon.config.compression import rounds_only
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.config.schema import Config
from photon.core.codec import decode, encode, leaves
from photon.core.messages import ServerState
from photon.core.outer import EMA, GATHERED, without_ema
from photon.core.trust.reputation import Reputation
from photon.errors import MismatchedCheckpoint, RunFolderError
from photon.hub.warm_start import require_same_architecture
from photon.model.build import empty_model, parameters_of
from photon.run import checkpoint
from photon.run.kinds import FEDERATED
from photon.run.outer import outer_of
from photon.run.own_layers import kept_answers
from photon.run.restore import checkpoint_of_round, find_run
from photon.run.run_folder import RunFolder, read_run
from photon.run.trackers import copy_lines, read_lines
from photon.training.layers import LayerRoles, layers_of
from photon.training.optim import first_moments
from photon.training.outline import codecs_of, periods_of

Names = Mapping[str, list[str]]
"""Moment -> the parameters that have it."""

SAME_MOMENTS = {"decoupled_adamw": "adamw"}
"""Inner optimizers whose moments are another's."""


@dataclass(frozen=True, slots=True)
class Copy:
    """The state that a new run begins with.

    Attributes:
        source: folder of the run that it comes from.
        with_clients: whether its clients' states are taken over.
        notes: what is not taken over, and why.
        dropped: fields of these that are not.
    """

    source: Path
    state: ServerState
    with_clients: bool
    notes: tuple[str, ...]
    dropped: tuple[str, ...] = ()

    def write(self, folder: RunFolder) -> None:
        """Put it into a new run's folder, which is let go if that fails."""
        try:
            self._write(folder)
        except BaseException:
            folder.close()
            raise

    def _write(self, folder: RunFolder) -> None:
        if self.with_clients:
            shutil.copytree(self.source / "clients", folder.clients, dirs_exist_ok=True)
            if self.dropped:
                self._drop(folder)
        theirs, done = read_lines(self.source / "metrics.jsonl"), self.state.round
        kept = checkpoint.kept_records(self.source / "checkpoints")
        lines = copy_lines(theirs, folder.metrics, "round", done, kept)
        record = lines[-1] if lines else None
        there = checkpoint.round_path(self.source / "checkpoints", done)
        folder.save_facts({COPIED: {"run": self.source.name, "link": hash_in(there)}})
        checkpoint.save_server_state(folder.checkpoints, self.state, record)  # now it is whole

    def _drop(self, folder: RunFolder) -> None:
        nothing: dict[str, Any] = {name: {} for name in self.dropped}
        for path in kept_answers(folder.path, self.state.last_accepted).values():
            if path.exists():
                update = checkpoint.load_update(path, verify=True)  # what is written has new hashes
                kept = checkpoint.load_client_state(path)
                checkpoint.save_answer(folder.clients, update, replace(kept, **nothing))


def copy_of_run(run: Run, data: Mapping[str, Any]) -> Copy | None:
    """The state of `photon.restore_run_uuid` as far as it fits; None without that key.

    Args:
        data: manifest of its data.

    Raises:
        RunFolderError: no such run, or no federated one.
        CheckpointError: not its round of `photon.resume_round`.
        MismatchedCheckpoint: it cannot go on with this configuration.
    """
    name = run.machine.copied_run
    if name is None:
        return None
    source = find_run(run.machine, run.mirror, name)
    theirs, facts = read_run(source)
    _require_federated(name, facts["kind"])
    _require_same_count(name, source, theirs.federation, run.federation)
    wanted = -1 if run.machine.resume_round is None else run.machine.resume_round
    manifest = checkpoint_of_round(source / "checkpoints", wanted)
    state = checkpoint.load_server_state(manifest)
    require_same_architecture(source, theirs.inner.model, run.inner.model)
    params = parameters_of(empty_model(run.inner))
    checkpoint.require_same_model(state.params, params, manifest)
    fit = _Fit(source, theirs, run, layers_of(run.federation, list(params)))
    notes: list[str] = []
    state = fit.outer(fit.norms(fit.held(fit.moments(state))), notes)
    state = replace(fit.measured(state), is_seeded=False)
    same_data = facts["data_digest"] == data["digest"]
    if reason := fit.why_clients_begin_afresh(state, same_data=same_data):
        notes.append(f"clients begin afresh: {reason}")
        state = replace(state, last_accepted={}, descents={})
    with_clients = bool(state.last_accepted)
    dropped = fit.dropped(notes) if with_clients else ()
    return Copy(source, state, with_clients, tuple(notes), dropped)


def _require_federated(name: str, kind: str) -> None:
    if kind != FEDERATED:
        raise RunFolderError(
            f"photon.restore_run_uuid={name}: is no federated run; for a centralised one there is "
            "photon.restore_cent_run_uuid"
        )


def _require_same_count(name: str, source: Path, theirs: Federation, ours: Federation) -> None:
    """Raises:
    MismatchedCheckpoint: rounds would go on from the number of merges.
    """
    if theirs.is_async and not ours.is_async:
        raise MismatchedCheckpoint(
            f"photon.restore_run_uuid={name}: {source} counts merges (fl.mode=async), from whose "
            "number the rounds of fl.mode=sync would go on; take fl.mode=async, or begin with its "
            f"parameters alone: pretrained_model_path={source}"
        )


@dataclass(frozen=True, slots=True)
class _Fit:
    """Two configurations, and what of a state fits both."""

    source: Path
    theirs: Config
    ours: Run
    layers: LayerRoles

    def outer(self, state: ServerState, notes: list[str]) -> ServerState:
        """Moments of another outer optimizer mean something else: they begin as in a new run. An
        average of the rounds begins with the parameters, where there was none.
        """
        fresh = outer_of(self.ours.federation, 1).init(state.params)
        before, after = self.theirs.federation.outer_name, self.ours.federation.outer_name
        average = {EMA: state.outer.get(EMA, fresh[EMA])} if EMA in fresh else {}
        own, fresh = without_ema(state.outer), without_ema(fresh)
        if GATHERED in fresh:  # parts of rounds begin to come, or go on
            own = {**own, GATHERED: own.get(GATHERED, fresh[GATHERED])}
        if before == after and _names(own) == _names(fresh):
            return replace(state, outer=own | average)
        if fresh or own:
            notes.append(
                f"the outer optimizer begins afresh: it was {before} in {self.source}, "
                f"is {after} here"
            )
        return replace(state, outer=fresh | average, gathered=0.0)

    def moments(self, state: ServerState) -> ServerState:
        """The averaged inner moments, if they go on being averaged.

        Raises:
            MismatchedCheckpoint: they are of another optimizer or of other parameters; to begin
                them afresh in the middle of a run would spoil the correction of their bias.
        """
        if not self.ours.federation.averages_moments:
            return replace(state, moments={}, averaged={})
        codecs = codecs_of(self.theirs.federation)
        sent = {
            name: leaves(tree, state.params, codecs.of_moment(name))
            for name, tree in state.moments.items()
        }
        if state.step and not (self._same_inner and self._fits(_names(sent))):
            raise MismatchedCheckpoint(
                f"photon.restore_run_uuid: {self.source} has averaged inner moments of "
                f"{_shown(sent, self.theirs.inner)}, this run of "
                f"{_shown(self._trained, self.ours.inner)}; take the same llm_config.optimizer and "
                "layers, or begin with its parameters alone: "
                f"pretrained_model_path={self.source}"
            )
        if self.theirs.federation.compression.moments == self.ours.federation.compression.moments:
            return state
        again, ours = {}, codecs_of(self.ours.federation)
        for name, tree in state.moments.items():
            values = decode(tree, state.params, codecs.of_moment(name))
            again[name] = encode(values, ours.of_moment(name))[0]
        return replace(state, moments=again)

    def _fits(self, sent: Names) -> bool:
        """Whether this run averages what the source has averaged so far. A moment may be missing:
        clients keep it, or its turn had not come; and where fragments take turns, so may some of
        its parameters.
        """
        before, after = self.theirs.averaging(), self.ours.federation
        is_averaged = periods_of(after, self._trained)
        if not before.averages_moments or not sent.keys() <= is_averaged.keys():
            return False
        in_turns = before.fragments > 1 and after.fragments > 1
        pairs = [(set(names), set(self._trained[key])) for key, names in sent.items()]
        return all(own <= all_ if in_turns else own == all_ for own, all_ in pairs)

    def held(self, state: ServerState) -> ServerState:
        """What clients are taken to hold: parameters that come whole are those of the server.

        Clients of a copy get its first base whole: the source's last difference is in the source's
        codecs, and of its layers.
        """
        both = self.theirs.federation, self.ours.federation
        told = self.layers.shared if all(one.sends_differences for one in both) else ()
        held = {name: value for name, value in state.held.items() if name in told}
        return replace(state, held=held, difference={}, difference_from="")

    def norms(self, state: ServerState) -> ServerState:
        """The norms that updates are judged by, where those of this run are of the same kind."""
        before, after = self.theirs.federation, self.ours.federation
        same_layers = layers_of(before, self.layers.names).shared == self.layers.shared
        is_alike = self._same_inner and same_layers and before.fragments == after.fragments
        return state if is_alike else replace(state, norms=())

    def measured(self, state: ServerState) -> ServerState:
        """What updates have been scored and measured, where this run goes on with it: nothing else
        would ever end a quarantine before its last round, or renew a figure.
        """
        fl = self.ours.federation
        return replace(
            state,
            reputation=state.reputation if fl.judging.enabled else Reputation(),
            noise=state.noise if fl.measures_noise else {},
        )

    def why_clients_begin_afresh(self, state: ServerState, *, same_data: bool) -> str | None:
        """Why the clients' states are not taken over; None if they are, or if there are none."""
        if not state.last_accepted:
            return None
        if not self.ours.machine.copies_clients:
            return "photon.copy_client_checkpoints=false"
        if not (self.source / "clients").is_dir():
            return f"{self.source} has no states of clients (nodes keep theirs)"
        if not same_data:
            return f"the data is not that of {self.source}"
        return next(self._faults(state), None)

    def dropped(self, notes: list[str]) -> tuple[str, ...]:
        """Fields of the clients' states that are not taken over; a note says why."""
        found: tuple[str, ...] = ()
        if reason := self._why_residuals_are_dropped():
            notes.append(f"what uploads have lost so far is not fed back: {reason}")
            found += ("residual",)
        if reason := self._why_nobody_goes_on():
            notes.append(f"clients begin at the server's parameters, not at their own: {reason}")
            found += ("ahead", "told")
        return found

    def _why_residuals_are_dropped(self) -> str | None:
        """What one codec has lost may be more than another may send at once."""
        before, after = (one.federation.compression.upload for one in (self.theirs, self.ours))
        if before == after or rounds_only(before) or not self.theirs.federation.feeds_back:
            return None
        return f"fl.compression.upload was {before} in {self.source}, is {after} here"

    def _why_nobody_goes_on(self) -> str | None:
        """What clients go on from fits the fragments of the source; ours may be others."""
        before, after = self.theirs.federation, self.ours.federation
        if not before.goes_on:
            return None
        if before.fragments != after.fragments:
            return f"fl.fragments was {before.fragments} in {self.source}, is {after.fragments}"
        if before.fragments > 1 and layers_of(before, self.layers.names).shared != (
            self.layers.shared
        ):
            return f"{self.source} sent other layers, so that its fragments were others"
        return None

    def _faults(self, state: ServerState) -> Iterator[str]:
        fl = self.ours.federation
        keeps = fl.keeps_optimizer and not fl.averages_moments
        if keeps and not self._same_inner:
            yield f"their moments are of {self.theirs.inner.optimizer.name}"
        for client, path in kept_answers(self.source, state.last_accepted).items():
            if not path.exists():
                continue
            kept = checkpoint.load_client_state(path, verify=False)
            if keeps and _names(kept.moments) != self._trained:
                yield f"client {client} has kept moments of other parameters, or none"
            if list(kept.layers) != list(self.layers.personal):
                yield f"client {client} has kept other fl.personalized_layers"

    @property
    def _same_inner(self) -> bool:
        names = [one.inner.optimizer.name for one in (self.theirs, self.ours)]
        return len({SAME_MOMENTS.get(name, name) for name in names}) == 1

    @property
    def _trained(self) -> Names:
        """What the inner optimizer of this run remembers."""
        model = empty_model(self.ours.inner)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in self.layers.frozen)
        return _names(first_moments(model, self.ours.inner.optimizer))


def _names(trees: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    return {key: list(tree) for key, tree in trees.items()}


def _shown(moments: Mapping[str, Any], inner: Inner) -> str:
    count = max((len(tree) for tree in moments.values()), default=0)
    return f"{inner.optimizer.name} over {count} parameters" if count else "nothing"
