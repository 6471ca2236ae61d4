"""A run as one of its nodes sees it: its folder here, its engine, the payloads that come and go."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from photon.chain.receipts import ReceiptBook
from photon.chain.said import entry_of
from photon.config.between.travel import taken, travel_digest
from photon.config.compose import checked
from photon.config.federation import Federation
from photon.config.resolve import Run, count_threads, count_workers
from photon.config.schema import Config
from photon.container.container import ContainerRef, write_container
from photon.core.aggregate import fold
from photon.core.messages import Broadcast, Failure, Instruction, Origin, RoundPlan, Update
from photon.core.parts import parts_of
from photon.core.tree import Tree
from photon.errors import ConfigError, MismatchedCheckpoint, PayloadError, PhotonError
from photon.machine.device import choose_device, count_gpus, num_cores
from photon.model.build import build_model, parameters_of
from photon.node.engine import LocalEngine, local_engine
from photon.node.mailbox import Mailbox
from photon.node.masking import Masking
from photon.node.microbatch import Trainers
from photon.run import checkpoint
from photon.run.base import Base
from photon.run.kinds import NODE
from photon.run.participation import rows_notes
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder, read_run
from photon.run.run_tokens import encoder_of_data, tokenization_facts
from photon.say import Say
from photon.training.outline import codecs_of
from photon.wire.messages import Sign, Ticket, Train, Trained

UPLOAD_SECONDS = 1.0
"""After a request to stop, in which updates that are done may go out; they are kept in any case."""
MakeEngine = Callable[[RunFolder, Run, torch.device], LocalEngine]
"""Gives what trains the clients of a run's folder."""


@dataclass(eq=False)
class HostedRun:
    """Trains the clients of this node, one request at a time.

    Attributes:
        sign: signs what it sends; None where there are no keys.
        receipts: what the server says of the run's chain.
    """

    folder: RunFolder
    run: Run
    engine: LocalEngine
    _digest: str
    _mailbox: Mailbox
    say: Say
    sign: Sign | None = None
    receipts: ReceiptBook | None = None
    _closed: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(
        cls,
        request: Train,
        run: Run,
        mailbox: Mailbox,
        say: Say,
        make_engine: MakeEngine = local_engine,
    ) -> HostedRun:
        """Make or reopen the folder of the run that a request names.

        Args:
            run: as the request and this node say, see `node_config`.

        Raises:
            MismatchedCheckpoint: tokenizer or data differ from the server's.
            PhotonError: data missing, folder in use.
        """
        clients = [one.client for one in request.instructions]
        run, _ = prepare(run, say, clients)
        data = RunData.of(*run.reading)
        _require_same_data(data, request.data)
        share = run.federation.cohort_size / run.federation.population
        notes = rows_notes(data, clients, run.inner.batch_rows, run.total_steps * share)
        for note in filter(None, notes):
            say(f"note        {note}")
        device = choose_device(run.machine.device)
        folder, run = _open_folder(run, data, request.config_digest, device)
        try:
            engine = make_engine(folder, run, device)
        except BaseException:
            folder.close()
            raise
        say(f"run         {request.run}, folder {folder.path}")
        return cls(folder, run, engine, request.config_digest, mailbox, say)

    def is_that_of(self, request: Train) -> bool:
        return (self.run.name, self._digest) == (request.run, request.config_digest)

    @cached_property
    def masking(self) -> Masking:
        """Its clients in sessions of secure aggregation."""
        fl, threads = self.run.federation, self.run.machine.threads
        clients, ends = self.folder.clients, self._closed.is_set
        return Masking(self.run.name, clients, fl, self._mailbox, threads, ends)

    def close(self) -> None:
        self._closed.set()
        self.engine.close()
        self.folder.close()

    def train(self, request: Train, should_stop: Callable[[], bool]) -> Trained:
        """Train the clients of a request and make their updates available.

        Args:
            should_stop: asked while the base comes, and between steps; then the clients' states are
                saved. Updates that are done may go out a little longer.
        """
        if self.receipts is not None:
            self.receipts.take(request.notice)
        plan, ref = _plan(request), ContainerRef.from_json(request.base)
        if {one.base_digest for one in request.instructions} != {ref.digest}:
            raise PayloadError("the base is not that of the instruction")
        codec = codecs_of(self.run.federation).parameters
        path, received = self._mailbox.bring_base(
            request.base, request.steps, codec, self._first_base, should_stop
        )
        done, failed = self._trained(plan, Base.at(path, received, ref), should_stop)
        sent = self._sent(done, received.params)
        late, grants = _later(should_stop, UPLOAD_SECONDS), request.upload
        updates = {u.client: self._offer(u, grants.get(u.client, {}), late) for u in sent}
        signatures = self._signatures(sent, updates)
        return Trained(
            updates=updates, failed=failed, devices=self.engine.devices, signatures=signatures
        )

    def _trained(
        self, plan: RoundPlan, base: Base, should_stop: Callable[[], bool]
    ) -> tuple[list[Update], dict[int, str]]:
        """The updates of a plan's clients, and why each of the others has none."""
        done: list[Update] = []
        failed: dict[int, str] = {}
        try:
            for arrival in self.engine.run_round(plan, base, deque(plan.cohort), should_stop):
                if isinstance(arrival, Failure):
                    failed[arrival.client] = arrival.reason
                elif arrival is not None:
                    done.append(arrival)
                    self.say(
                        f"round {plan.round:>4}  client {arrival.client}  loss "
                        f"{arrival.metrics['train_loss']:.3f}  {arrival.num_tokens:,} tokens"
                    )
            reason = "stopped before it was done"
        except PhotonError as error:
            reason = f"{type(error).__name__}: {error}"
        trained = {update.client for update in done}
        return done, {c: failed.get(c, reason) for c in plan.cohort if c not in trained}

    def _sent(self, done: list[Update], params: Tree) -> list[Update]:
        """Updates as the server gets them: folded into one, or without what is sent masked."""
        if self.run.federation.secure_aggregation:
            return [replace(one, gradient={}, moments={}, num_tokens=0) for one in done]
        if done and self.run.federation.fold_updates:
            return [fold(done, params, codecs_of(self.run.federation))]
        return done

    def _signatures(
        self, done: Sequence[Update], tickets: Mapping[int, Ticket]
    ) -> dict[int, bytes]:
        """Of what is sent, by client; none without a key."""
        found: dict[int, bytes] = {}
        if self.sign is None:
            return found
        for update in done:
            ref = ContainerRef.from_json(tickets[update.client])
            sent = replace(update, origin=Origin(ref.digest, ref.size))
            found[update.client] = self.sign(entry_of(sent).statement(update.run))
        return found

    def _first_base(self) -> Broadcast:
        return Broadcast(params=parameters_of(build_model(self.run.inner, self.run.seed)))

    def _offer(self, update: Update, grant: Ticket, late: Callable[[], bool]) -> Ticket:
        if update.covers or not update.gradient:  # made to be sent, and not kept
            path = self._mailbox.folder / f"client_{update.client}"
            ref = write_container(path, *parts_of(update))
        else:
            kept = checkpoint.answer_path(self.folder.clients, update.client, update.round)
            path, ref = checkpoint.sent_file(kept)
        return self._mailbox.offer(path, ref, grant, late)


def _later(should_stop: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Says the same, but so much later, from when it is asked."""
    since = math.inf

    def late() -> bool:
        nonlocal since
        if should_stop():
            since = min(since, time.monotonic())
        return time.monotonic() - since > seconds

    return late


def _plan(request: Train) -> RoundPlan:
    instructions = [Instruction(**one.model_dump()) for one in request.instructions]
    return RoundPlan(
        round=request.round,
        cohort=tuple(sorted(i.client for i in instructions)),
        instructions={i.client: i for i in instructions},
        base_digest=instructions[0].base_digest,
    )


def run_of(request: Train, own: Config) -> Run:
    """What a request and this node's own configuration say together.

    Raises:
        ConfigError: the server says what is this node's own.
        MismatchedCheckpoint: what it says means something else here.
    """
    if travel_digest(request.config) != request.config_digest:
        raise MismatchedCheckpoint(
            "the configuration has another digest here than on the server: the versions of "
            "photon differ; install the same on both"
        )
    return node_config(request.config, own)


def node_config(server: Mapping[str, Any], own: Config) -> Run:
    """The node's own configuration with the server's mathematics, and numbers for this machine."""
    config = taken(server, own)
    _require_masks(config.federation, own.machine.fewest_masked)
    machine, compiled = config.machine, own.inner.compile
    compiled = config.inner.compile if compiled == "auto" else compiled
    gpus, each = count_gpus(machine.device), machine.devices_per_client
    cores = num_cores() if gpus else each  # a CPU trains one client at a time
    workers = count_workers(machine, cores, gpus, config.federation.cohort_size)
    if machine.workers == "auto" and not gpus:
        workers = 1
    threads = count_threads(machine, num_cores(), workers)
    filled = config.but(
        machine={"workers": workers, "threads": threads},
        inner={"compile": bool(gpus) if compiled == "auto" else compiled},
    )
    return checked(Run, filled.model_dump(mode="json"))


def _require_masks(federation: Federation, fewest: int | None) -> None:
    """Raises:
    ConfigError: fewer clients would be masked together than this node asks for.
    """
    theirs = federation.fewest_masked if federation.secure_aggregation else 0
    if fewest is not None and theirs < fewest:
        raise ConfigError(
            f"photon.fewest_masked={fewest}: this node trains for sums of at least so many "
            + (f"clients, and the server opens those of {theirs}" if theirs else
               "masked clients, and the server's fl.secure_aggregation is false")
        )  # fmt: skip


def _require_same_data(data: RunData, expected: dict[str, Any]) -> None:
    """Refuse data of another tokenization than the server's."""
    found = data_facts(data)
    for key, value in expected.items():
        if found.get(key) != value:
            raise MismatchedCheckpoint(
                f"{data.root}: has {key} {found.get(key)}, the server {value}; prepare the "
                "data with the server's tokenizer.json and separator"
            )


def data_facts(data: RunData) -> dict[str, Any]:
    """What a server asks nodes to agree with: the tokenizer and its use."""
    return tokenization_facts(encoder_of_data(data).facts, data.tokenizer)


def _open_folder(
    run: Run, data: RunData, config_digest: str, device: torch.device
) -> tuple[RunFolder, Run]:
    """The run's folder, and its configuration with the microbatch that fitted when the folder was
    made, so that bits stay.
    """
    path = Path(run.machine.runs_folder) / run.name
    if not (path / "run.json").exists():
        rows = Trainers.of(run, "node").microbatch(device)
        run = run.but(inner={"microbatch_rows": rows})
        facts = {"config_digest": config_digest, **data_facts(data)}
        return RunFolder.create(path, run.model_dump(mode="json"), NODE, data.tokenizer, facts), run
    saved, facts = read_run(path)
    if facts["kind"] != NODE or facts["config_digest"] != config_digest:
        raise MismatchedCheckpoint(
            f"{path}: is of a run with another configuration; give the new run another run_uuid, "
            "or this node another photon.saving_path"
        )
    folder = RunFolder.open(path)
    run = run.but(inner={"microbatch_rows": saved.inner.microbatch_rows})
    folder.save_config(run.model_dump(mode="json"))
    return folder, run
