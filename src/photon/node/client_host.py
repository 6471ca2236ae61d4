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

from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.core.codec import decode
from photon.core.messages import ClientState, Instruction, Moments, StreamState, Update
from photon.core.tree import Tree
from photon.data.read.stream import JoinedStream
from photon.errors import CorruptCheckpoint
from photon.evaluation.loss import Share, held_out_loss
from photon.machine.device import training_memory_kept
from photon.model.build import build_model, empty_model, parameters_of
from photon.node.measure import Measured, SegmentMeter
from photon.run import artifact, checkpoint
from photon.run.live import FILE, Beacon, StepBeacon
from photon.run.run_data import RunData
from photon.training.layers import LayerRoles, layers_of
from photon.training.loop import Trainer
from photon.training.outline import codec_of, outgoing
from photon.training.parallel import ALONE, World
from photon.training.state import TrainState


class Stopped(Exception):
    """Training stopped between two steps, as asked; the open state is saved."""


class ClientHost:
    """Hosts clients on one device.

    Args:
        folder: where the clients' states live, one folder each.
        device: where the model lives.
        world: the processes that train each client together; the first one writes.
    """

    def __init__(self, run: Run, folder: Path, device: torch.device, world: World = ALONE) -> None:
        self.inner, self.federation, self.folder = run.inner, run.federation, folder
        self.data, self.checkpoints_kept = RunData.of(*run.reading), run.checkpoints_kept
        names = list(parameters_of(empty_model(run.inner)))
        self.layers = layers_of(run.federation, names)
        self._first = _first_layers(run.inner, run.seed, self.layers)
        self.trainer = Trainer(run.inner, run.seed, device, world, self.layers.frozen)
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
        answer = checkpoint.answer_path(self.folder, instruction.client, instruction.round)
        if _answers(answer, instruction):
            return answer
        before, lost = self._state_before(instruction)
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
        rows = self.data.own_validation(instruction.client)
        share = Share(world.rank, world.size, world.sum)
        return {key: held_out_loss(self.trainer.model, rows, self.inner, share).loss}

    def _state_before(self, instruction: Instruction) -> tuple[ClientState, bool]:
        """The state after the last accepted update; a fresh one, and True, if that is lost."""
        version = instruction.last_accepted
        fresh = ClientState(round=0, stream=StreamState())
        if version == 0 or self.federation.forgets_clients:
            return fresh, False
        path = checkpoint.answer_path(self.folder, instruction.client, version)
        if not path.exists():
            return fresh, True
        without = f"client {instruction.client} then begins afresh, as the round's record tells"
        with _removable(path, without):
            return checkpoint.load_client_state(path), False

    def _resume(self, home: Path, instruction: Instruction) -> TrainState | None:
        """The open state of this round, if a segment of it was saved."""
        path = home / "train.json"
        if not path.exists():
            return None
        with _removable(path, "the client's part of the round is then trained anew"):
            state, extra = checkpoint.load_train_state(path)
        return state if extra == asdict(instruction) else None

    def _begin(
        self, instruction: Instruction, before: ClientState, params: Tree, moments: Moments
    ) -> TrainState:
        fl = self.federation
        own = before.moments if fl.keeps_optimizer else {}
        step = before.optimizer_step if fl.keeps_optimizer else 0
        if fl.averages_moments:
            codec = codec_of(fl)
            own = {name: decode(tree, params, codec) for name, tree in moments.items()}
            step = instruction.first_step
        return TrainState(
            params=params,
            moments=own,
            optimizer_step=step,
            step=0 if fl.restarts_schedule else instruction.first_step,
            loss_scale=before.loss_scale,
            streams=(StreamState() if fl.rereads_data else before.stream,),
        )

    def _run_segments(
        self, home: Path, instruction: Instruction, should_stop: Callable[[], bool]
    ) -> dict[str, float]:
        """Train to the end of the round, saving between segments; gives the numbers of all."""
        stream, measured = self._stream(instruction.client), Measured()
        beacon = Beacon(home / FILE if self.trainer.world.is_first else None)
        watched = StepBeacon(
            beacon, should_stop, {"round": instruction.round},
            done=self.trainer.state.steps_done, total=instruction.local_steps,
            tokens=self.inner.tokens_per_step,
        )  # fmt: skip
        while (left := instruction.local_steps - self.trainer.state.steps_done) > 0:
            begun = time.monotonic()
            steps = min(left, self.inner.segment_steps)
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
        fl = self.federation
        state = self.trainer.snapshot(moments=fl.keeps_optimizer or bool(fl.averages_moments))
        if not self.trainer.world.is_first:
            return home
        gradient, moments, residual = outgoing(
            fl, self.layers, params, state.params, state.moments, residual
        )
        keep = state.moments if fl.keeps_optimizer and not fl.averages_moments else {}
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
            metrics={
                **{key: value for key, value in metrics.items() if math.isfinite(value)},
                "train_loss": state.train_loss if state.num_tokens else 0.0,
                "skipped_steps": state.skipped_steps,
            },
            state_lost=lost,
        )
        path = checkpoint.save_answer(self.folder, update, client_state)
        artifact.remove(home, "train")
        # A server that goes back to an earlier checkpoint asks for the state of that time.
        kept = self.checkpoints_kept + 1
        checkpoint.prune_checkpoints(home, kept, spared=instruction.last_accepted)
        return path

    def _stream(self, client: int) -> JoinedStream:
        if client not in self._streams:
            self._streams[client] = JoinedStream([self.data.stream(client)])
        return self._streams[client]


def _first_layers(inner: Inner, seed: int, layers: LayerRoles) -> dict[str, Tensor]:
    """Seeded values of a client's own layers: what one begins with that has lost its own."""
    if not layers.personal:
        return {}
    model = build_model(inner, seed)
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
    """Whether what is on disk is the answer to this very instruction.

    Raises:
        CorruptCheckpoint: it would be, but is damaged.
    """
    if not path.exists():
        return False
    update = checkpoint.load_update(path)
    if (update.run, update.base_digest) != (instruction.run, instruction.base_digest):
        return False
    checkpoint.load_update(path, verify=True)
    return True
