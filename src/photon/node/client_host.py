"""The clients of this machine: their data, their states, their training.

A node keeps the model built and swaps clients' states in and out. Whatever happens to it, a client
is trained exactly once per round: an open round goes on from its last segment, a finished one
answers with the update that was kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from photon.config.schema import Config
from photon.core.codec import decode
from photon.core.messages import ClientState, Instruction, Moments, StreamState, Update
from photon.core.tree import Tree
from photon.data.read.stream import JoinedStream, Stream
from photon.errors import CorruptCheckpoint
from photon.evaluation.loss import Share, evaluate_loss
from photon.machine.device import training_memory_kept
from photon.model.build import build_model, empty_model, parameters_of
from photon.node.measure import Measured, SegmentMeter
from photon.run import artifact, checkpoint
from photon.run.live import FILE, Beacon, StepBeacon
from photon.run.rows import VALIDATION, open_rows
from photon.training.layers import Layers, layers_of
from photon.training.loop import Trainer
from photon.training.outline import codec_of, outgoing, sent_bytes
from photon.training.parallel import ALONE, World
from photon.training.state import TrainState


class Stopped(Exception):
    """Training stopped between two steps, as asked; the open state is saved."""


class Node:
    """Hosts clients on one device.

    Args:
        config: resolved.
        folder: where the clients' states live, one folder each.
        device: where the model lives.
        world: the processes that train each client together; the first one writes.
    """

    def __init__(
        self, config: Config, folder: Path, device: torch.device, world: World = ALONE
    ) -> None:
        self.config, self.folder = config, folder
        names = list(parameters_of(empty_model(config.llm_config)))
        self.layers = layers_of(config.fl, names)
        self._first = first_layers(config, self.layers)
        self.trainer = Trainer(config.llm_config, config.seed, device, world, self.layers.frozen)
        self._measure = SegmentMeter(self.trainer)
        self._streams: dict[int, JoinedStream] = {}

    def train(
        self,
        instruction: Instruction,
        params: Tree,
        moments: Moments,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Path:
        """Carry out an instruction.

        Args:
            params: global parameters, those of `instruction.base_digest`.
            moments: averaged inner moments; empty unless they are averaged.
            should_stop: asked between steps.

        Returns:
            Path of the update, which stays until the next round's takes its place.

        Raises:
            Stopped: `should_stop` said so; the open state is saved.
        """
        home = self.folder / f"client_{instruction.client}"
        answer = home / f"{checkpoint.answer_name(instruction.round)}.json"
        if _answers(answer, instruction):
            return answer
        before, lost = self._state_before(home, instruction)
        params = {**self._first, **params, **before.layers}
        resumed = self._resume(home, instruction)
        self.trainer.load(resumed or self._begin(instruction, before, params, moments))
        metrics = {} if resumed else self._score_own(instruction, "val_loss")
        metrics |= self._run_segments(home, instruction, should_stop)
        metrics |= self._score_own(instruction, "trained_val_loss")
        return self._finish(home, instruction, params, before.residual, lost, metrics)

    def _score_own(self, instruction: Instruction, key: str) -> dict[str, float]:
        """Loss on the client's own held-out part, if the instruction asks for it."""
        if not instruction.evaluate:
            return {}
        world = self.trainer.world
        rows = open_rows(self.config, f"client_{instruction.client}/{VALIDATION}")
        report = evaluate_loss(
            self.trainer.model,
            rows,
            batch_size=self.config.llm_config.device_eval_batch_size,
            max_batches=self.config.llm_config.eval_subset_num_batches,
            precision=self.config.llm_config.precision,
            share=Share(world.rank, world.size, world.sum),
        )
        return {key: report.loss}

    def _state_before(self, home: Path, instruction: Instruction) -> tuple[ClientState, bool]:
        """The state after the last accepted update; a fresh one, and True, if that is lost."""
        version = instruction.last_accepted
        fresh = ClientState(round=0, stream=StreamState())
        if version == 0 or self.config.fl.reset_checkpoint:
            return fresh, False
        path = home / f"{checkpoint.answer_name(version)}.json"
        if not path.exists():
            return fresh, True
        without = f"client {instruction.client} then begins afresh, as the round's record tells"
        with _removable(path, without):
            return checkpoint.load_client_state(path), False

    def _resume(self, home: Path, instruction: Instruction) -> TrainState | None:
        """The open state of this round, if a segment of it was saved."""
        if not artifact.exists(home, "train"):
            return None
        with _removable(home / "train.json", "the client's part of the round is then trained anew"):
            state, extra = checkpoint.load_train_state(home / "train.json")
        return state if extra == asdict(instruction) else None

    def _begin(
        self, instruction: Instruction, before: ClientState, params: Tree, moments: Moments
    ) -> TrainState:
        fl = self.config.fl
        own = before.moments if fl.keeps_optimizer else {}
        step = before.optimizer_step if fl.keeps_optimizer else 0
        if fl.aggregate_momenta:
            codec = codec_of(self.config)
            own = {name: decode(tree, params, codec) for name, tree in moments.items()}
            step = instruction.first_step
        return TrainState(
            params=params,
            moments=own,
            optimizer_step=step,
            step=0 if fl.reset_timestamp else instruction.first_step,
            loss_scale=before.loss_scale,
            streams=(StreamState() if fl.reset_dataset_state else before.stream,),
        )

    def _run_segments(
        self, home: Path, instruction: Instruction, should_stop: Callable[[], bool]
    ) -> dict[str, float]:
        """Train to the end of the round, saving between segments; gives the numbers of all."""
        stream, measured = self._stream(instruction.client), Measured()
        beacon = Beacon(home / FILE if self.trainer.world.is_first else None)
        watched = self._watched(beacon, instruction, should_stop)
        while (left := instruction.local_steps - self.trainer.state.steps_done) > 0:
            begun = time.monotonic()
            steps = min(left, self.config.llm_config.save_interval)
            with training_memory_kept():
                segment = self.trainer.train(stream, steps, watched)
            if segment.taken:
                numbers = self._measure(segment, time.monotonic() - begun)
                measured = measured.and_then(len(segment.taken), numbers)
            if segment.state.steps_done < instruction.local_steps:
                snapshot = self.trainer.snapshot()
                if self.trainer.world.is_first:
                    checkpoint.save_train_state(home, "train", snapshot, asdict(instruction))
                if should_stop():
                    raise Stopped
        beacon.close()
        return measured.numbers

    def _watched(
        self, beacon: Beacon, instruction: Instruction, should_stop: Callable[[], bool]
    ) -> StepBeacon:
        return StepBeacon(
            beacon,
            should_stop,
            {"round": instruction.round},
            done=self.trainer.state.steps_done,
            total=instruction.local_steps,
            tokens=self.config.llm_config.tokens_per_step,
        )

    def _finish(
        self,
        home: Path,
        instruction: Instruction,
        params: Tree,
        residual: Mapping[str, Tree],
        lost: bool,
        metrics: dict[str, float],
    ) -> Path:
        """Keep the update and the client's new state together: both have happened, or neither."""
        state, fl = self.trainer.snapshot(), self.config.fl
        if not self.trainer.world.is_first:
            return home
        gradient, moments, residual = outgoing(
            self.config, self.layers, params, state.params, state.moments, residual
        )
        keep = state.moments if fl.keeps_optimizer and not fl.aggregate_momenta else {}
        client_state = ClientState(
            round=instruction.round,
            stream=state.streams[0],
            moments=keep,
            optimizer_step=state.optimizer_step,
            loss_scale=state.loss_scale,
            layers={name: state.params[name] for name in self.layers.personal},
            residual=residual,
        )
        update = Update(
            run=instruction.run,
            round=instruction.round,
            client=instruction.client,
            gradient=gradient,
            moments=moments,
            num_tokens=state.num_tokens,
            num_steps=state.steps_done,
            base_digest=instruction.base_digest,
            num_bytes=sent_bytes(gradient, moments),
            metrics={
                **{key: value for key, value in metrics.items() if math.isfinite(value)},
                "train_loss": state.train_loss if state.num_tokens else 0.0,
                "skipped_steps": state.skipped_steps,
            },
            state_lost=lost,
        )
        path = checkpoint.save_answer(home, update, client_state)
        artifact.remove(home, "train")
        _forget(home, instruction.last_accepted, newest=self.config.checkpoints_kept + 1)
        return path

    def _stream(self, client: int) -> JoinedStream:
        if client not in self._streams:
            self._streams[client] = JoinedStream([client_stream(self.config, client)])
        return self._streams[client]


def first_layers(config: Config, layers: Layers) -> dict[str, Tensor]:
    """Seeded values of a client's own layers: what one begins with that has lost its own."""
    if not layers.personal:
        return {}
    model = build_model(config.llm_config, config.seed)
    return {name: parameters_of(model)[name] for name in layers.personal}


@contextmanager
def _removable(path: Path, without: str) -> Iterator[None]:
    """Add to the message of a damaged state what becomes of the run without it."""
    try:
        yield
    except CorruptCheckpoint as error:
        raise CorruptCheckpoint(
            f"{error}; to go on without it, remove {path}: {without}"
        ) from error


def _answers(path: Path, instruction: Instruction) -> bool:
    """Whether what is on disk is the answer to this very instruction."""
    if not path.exists():
        return False
    facts = artifact.load_facts(path)
    return all(facts[k] == getattr(instruction, k) for k in ("run", "round", "base_digest"))


def _forget(home: Path, accepted: int, newest: int) -> None:
    """Delete old answers, but not the last accepted one, nor those that a server that goes back to
    an earlier checkpoint would ask for.
    """
    rounds = sorted(int(path.stem.split("_")[1]) for path in home.glob("round_*.json"))
    for number in rounds[:-newest]:
        if number != accepted:
            artifact.remove(home, checkpoint.answer_name(number))


def client_stream(config: Config, client: int) -> Stream:
    """A client's training rows in their addressed order.

    Raises:
        DataError: its data is missing.
    """
    rows = open_rows(config, f"client_{client}/train")
    split = config.dataset.train
    return Stream(
        rows,
        seed=split.shuffle_seed if split.shuffle else None,
        client=client,
        block_rows=split.shuffle_block_size,
    )
