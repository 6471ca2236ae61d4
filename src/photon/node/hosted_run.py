"""A run as one of its nodes sees it: its folder here, its engine, the payloads that come and go."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch

from photon.config.resolve import count_workers, replace_keys
from photon.config.schema import Config
from photon.config.travel import taken, travel_digest
from photon.core.aggregate import fold
from photon.core.messages import Instruction, RoundPlan, ServerState, Update
from photon.core.tree import digest as tree_digest
from photon.errors import MismatchedCheckpoint, PayloadError, PhotonError
from photon.machine.device import choose_device, count_gpus, num_cores
from photon.node.engine import LocalEngine, local_engine
from photon.node.fit import with_microbatch
from photon.node.mailbox import Mailbox
from photon.run import checkpoint
from photon.run.kinds import NODE
from photon.run.participation import repeats_note
from photon.run.preparation import prepare
from photon.run.rows import data_root
from photon.run.run_folder import RunFolder, read_run
from photon.run.run_tokens import encoder_of_data, tokenization_facts
from photon.say import Say
from photon.training.outline import codec_of
from photon.wire.messages import Ticket, Train, Trained
from photon.wire.payload import write_payload

MICROBATCH = "llm_config.device_train_microbatch_size"


class HostedRun:
    """Trains the clients of this node, one request at a time.

    Attributes:
        name: the run's.
    """

    def __init__(
        self, folder: RunFolder, engine: LocalEngine, config_digest: str, mailbox: Mailbox, say: Say
    ) -> None:
        self.folder, self.engine, self.say = folder, engine, say
        self.name = str(folder.config.run_uuid)
        self._digest = config_digest
        self._mailbox = mailbox
        self._stop = threading.Event()

    @classmethod
    def open(cls, request: Train, own: Config, mailbox: Mailbox, say: Say) -> HostedRun:
        """Make or reopen the folder of the run that a request names.

        Raises:
            ConfigError: the server says what is this node's own.
            MismatchedCheckpoint: configuration, tokenizer or data differ from the server's.
            PhotonError: data missing, folder in use.
        """
        if travel_digest(request.config) != request.config_digest:
            raise MismatchedCheckpoint(
                "the configuration has another digest here than on the server: the versions of "
                "photon differ; install the same on both"
            )
        config = node_config(request.config, own)
        clients = [one.client for one in request.instructions]
        config, _ = prepare(config, say, clients)
        _require_same_data(config, request.data)
        if (note := repeats_note(config, clients)) is not None:
            say(f"note        {note}")
        device = choose_device(config.photon.device)
        folder = _open_folder(config, request.config_digest, device)
        try:
            engine = local_engine(folder, folder.config, device)
        except BaseException:
            folder.close()
            raise
        say(f"run         {request.run}, folder {folder.path}")
        return cls(folder, engine, request.config_digest, mailbox, say)

    def is_that_of(self, request: Train) -> bool:
        return (self.name, self._digest) == (request.run, request.config_digest)

    def cancel(self) -> None:
        """Stop between two steps; the open clients' states are saved."""
        self._stop.set()

    def close(self) -> None:
        self.engine.close()
        self.folder.close()

    def train(self, request: Train) -> Trained:
        """Train the clients of a request and make their updates available."""
        self._stop.clear()
        plan = _plan(request)
        path, params, moments = self._mailbox.bring_base(request.base)
        if tree_digest(params) != plan.base_digest:
            raise PayloadError("the base is not that of the instruction")
        state = ServerState(
            round=plan.round - 1,
            step=plan.instructions[plan.cohort[0]].first_step,
            params=params,
            outer={},
            moments=moments,
        )
        done: list[Update] = []
        try:
            for update in self.engine.run_round(plan, state, path, self._stop.is_set):
                done.append(update)
                self.say(f"round {plan.round:>4}  client {update.client}  {_loss(update)}")
            reason = "stopped before it was done"
        except PhotonError as error:
            reason = f"{type(error).__name__}: {error}"
        trained = {update.client for update in done}
        if done and self.folder.config.fl.fold_updates:
            done = [fold(done, params, codec_of(self.folder.config))]
        updates = {u.client: self._offer(u, request.upload.get(u.client, {})) for u in done}
        faults = self.engine.faults
        failed = {c: faults.get(c, reason) for c in plan.cohort if c not in trained}
        return Trained(updates=updates, failed=failed)

    def _offer(self, update: Update, grant: Ticket) -> Ticket:
        path = self._mailbox.folder / f"client_{update.client}.payload"
        tensors, facts = checkpoint.update_parts(update)
        return self._mailbox.offer(path, write_payload(path, tensors, facts), grant)


def _plan(request: Train) -> RoundPlan:
    instructions = [Instruction(**one.model_dump()) for one in request.instructions]
    return RoundPlan(
        round=request.round,
        cohort=tuple(sorted(i.client for i in instructions)),
        instructions={i.client: i for i in instructions},
        base_digest=instructions[0].base_digest,
    )


def node_config(server: dict[str, Any], own: Config) -> Config:
    """The node's own configuration with the server's mathematics, and numbers for this machine."""
    config = taken(server, own)
    threads, compiled = config.photon.threads, own.llm_config.compile
    compiled = config.llm_config.compile if compiled == "auto" else compiled
    gpus, each = count_gpus(config.photon.device), config.photon.devices_per_client
    cores = num_cores() if gpus else each  # a CPU trains one client at a time
    workers = count_workers(config.photon, cores, gpus, config.fl.cohort_size)
    if config.photon.workers == "auto" and not gpus:
        workers = 1
    if threads in ("auto", 0):
        threads = max(1, num_cores() // max(1, workers * each))
    return replace_keys(
        config,
        {
            "photon.workers": workers,
            "photon.threads": threads,
            "llm_config.compile": bool(gpus) if compiled == "auto" else compiled,
        },
    )


def _require_same_data(config: Config, expected: dict[str, Any]) -> None:
    """Refuse data that the server's model cannot learn from together with the others'."""
    found = data_facts(config)
    for key, value in expected.items():
        if found.get(key) != value:
            raise MismatchedCheckpoint(
                f"{data_root(config)}: has {key} {found.get(key)}, the server {value}; prepare the "
                "data with the server's tokenizer.json and separator"
            )


def data_facts(config: Config) -> dict[str, Any]:
    """What a server asks nodes to agree with: the tokenizer and its use."""
    tokenizer = data_root(config) / "tokenizer.json"
    return tokenization_facts(encoder_of_data(config).facts, tokenizer)


def _open_folder(config: Config, config_digest: str, device: torch.device) -> RunFolder:
    """The run's folder; the microbatch is what fitted when it was made, so that bits stay."""
    path = Path(config.photon.saving_path) / str(config.run_uuid)
    if not (path / "run.json").exists():
        config = with_microbatch(config, device, config.photon.devices_per_client, "node")
        facts = {"config_digest": config_digest, **data_facts(config)}
        return RunFolder.create(path, config, NODE, data_root(config) / "tokenizer.json", facts)
    saved, facts = read_run(path)
    if facts["kind"] != NODE or facts["config_digest"] != config_digest:
        raise MismatchedCheckpoint(
            f"{path}: is of a run with another configuration; give the new run another run_uuid, "
            "or this node another photon.saving_path"
        )
    folder = RunFolder.open(path)
    microbatch = saved.llm_config.device_train_microbatch_size
    folder.save_config(replace_keys(config, {MICROBATCH: microbatch}))
    return folder


def _loss(update: Update) -> str:
    return f"loss {update.metrics['train_loss']:.3f}  {update.num_tokens:,} tokens"
