"""The clients of this machine: their training, one after the other, on one device.

A node keeps the model built and swaps clients' states in and out. Whatever happens to it, a client
is trained exactly once per round: an open round goes on from its last segment, a finished one
answers with the update that was kept. What a client leaves is written while the next one trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.core.codec import read
from photon.core.messages import (
    Broadcast,
    ClientState,
    Instruction,
    Moments,
    StreamState,
    Update,
)
from photon.core.tree import Tree
from photon.data.read.stream import JoinedStream
from photon.evaluation.loss import Share, held_out_loss
from photon.machine.device import training_memory_kept
from photon.model.build import build_model, empty_model, parameters_of
from photon.node.client_files import ClientFiles
from photon.node.measure import Measured, SegmentMeter, Spent
from photon.node.pace import Pace
from photon.node.residents import Residents
from photon.run.live import FILE, Beacon, StepBeacon
from photon.run.run_data import RunData
from photon.training.layers import LayerRoles, layers_of
from photon.training.loop import Trainer
from photon.training.offload import Offload
from photon.training.outgoing import Outgoing, leaving, outgoing
from photon.training.outline import averaged_in, codecs_of
from photon.training.parallel import ALONE, World
from photon.training.reach import matched
from photon.training.state import TrainState


class Stopped(Exception):
    """Training stopped between two steps, as asked; the open state is saved."""


class ClientHost:
    """Hosts clients on one device.

    Args:
        folder: where the clients' states live, one folder each.
        device: where the model lives.
        world: the processes that train each client together; the first one writes.

    Attributes:
        steps_taken: by the last call of `train`; others of that client's round were taken before.
    """

    def __init__(self, run: Run, folder: Path, device: torch.device, world: World = ALONE) -> None:
        self.inner, self.federation = run.inner, run.federation
        self.data = RunData.of(*run.reading)
        # A server that goes back to an earlier checkpoint asks for the states of that time, and the
        # one that it keeps longest is a round older while the newest is still being written.
        self.files = ClientFiles(folder, run.federation.forgets_clients, run.checkpoints_kept + 2)
        names = list(parameters_of(empty_model(run.inner)))
        self.layers = layers_of(run.federation, names)
        self._first = _first_layers(run.inner, run.seed, self.layers)
        self.trainer = Trainer(run.inner, run.seed, device, world, self.layers.frozen)
        self._offload, self._residents = Offload(device), Residents(device)
        self._measure = SegmentMeter(self.trainer)
        self._step_seconds = run.machine.step_seconds or 0.0
        self._streams: dict[int, JoinedStream] = {}
        self.steps_taken = 0

    def train(
        self,
        instruction: Instruction,
        received: Broadcast,
        should_stop: Callable[[], bool] = lambda: False,
        following: Instruction | None = None,
    ) -> Future[Path]:
        """Carry out an instruction.

        Args:
            received: that of `instruction.base_digest`.
            should_stop: asked between steps.
            following: that of the client which is trained next, as far as that is known.

        Returns:
            Path of the update, once it is durable; it stays until the next round's takes its place.

        Raises:
            Stopped: `should_stop` said so; the open state is saved.
        """
        spent, self.steps_taken = Spent(), 0
        self.files.settle(instruction.client)
        if answer := self.files.answer(instruction):
            return _done(answer)
        with spent.on("load"):
            before, lost = self.files.before(instruction)
            base, averaged = self._base(instruction, received)
            base = {**self._first, **base, **before.layers}
            averaged = {
                name: tree
                for name, tree in averaged.items()
                if name not in before.moments or received.averaged[name] >= before.round
            }
            resumed = self.files.opened(instruction)
            self.trainer.load(resumed or self._begin(instruction, before, base, averaged))
        self.files.behind.go()
        if following is not None:
            self.files.read_ahead(following)
        metrics = {} if resumed else self._score_own(instruction, "val_loss", spent)
        metrics |= self._run_segments(instruction, should_stop, spent)
        metrics |= self._score_own(instruction, "trained_val_loss", spent)
        self._residents.trained()
        return self._finish(instruction, base, before, lost, metrics, spent)

    def rest(self) -> None:
        """Nobody is trained next."""
        self.files.behind.go()

    def close(self) -> None:
        """Wait until everything is written."""
        self.files.close()

    def _score_own(self, instruction: Instruction, key: str, spent: Spent) -> dict[str, float]:
        """Loss on the client's own held-out part, if the instruction asks for it."""
        if not instruction.evaluate:
            return {}
        world = self.trainer.world
        rows = self.data.own_validation(instruction.client)
        share = Share(world.rank, world.size, world.sum)
        with spent.on("validate"):
            return {key: held_out_loss(self.trainer.model, rows, self.inner, share).loss}

    def _base(self, instruction: Instruction, received: Broadcast) -> tuple[Tree, Moments]:
        """Parameters and averaged moments to start from, decoded once for all clients."""
        codecs, params, step = codecs_of(self.federation), received.params, instruction.first_step

        def decoded() -> tuple[Tree, Moments]:
            sent = received.moments.items()
            moments = {n: read(tree, params, codecs.of_moment(n)) for n, tree in sent}
            if codecs.moments.cast is None:
                moments = matched(moments, self.inner.optimizer, step)
            return params, moments

        return self._residents.base(f"{instruction.base_digest} {step}", decoded)

    def _begin(
        self, instruction: Instruction, before: ClientState, params: Tree, averaged: Moments
    ) -> TrainState:
        """
        Args:
            averaged: moments that take the place of the client's own, in any float type.
        """
        fl, client = self.federation, instruction.client
        own = self._residents.moments(client, before.round, before.moments)
        step = before.optimizer_step
        if fl.averages_moments:
            own, step = {**own, **averaged}, instruction.first_step
            if averaged and fl.first_moment_period != fl.second_moment_period:
                own = matched(own, self.inner.optimizer, step)
        elif not fl.keeps_optimizer:
            own, step = {}, 0
        return TrainState(
            params=params,
            moments=own,
            optimizer_step=step,
            step=0 if fl.restarts_schedule else instruction.first_step,
            loss_scale=before.loss_scale,
            streams=(StreamState() if fl.rereads_data else before.stream,),
        )

    def _run_segments(
        self, instruction: Instruction, should_stop: Callable[[], bool], spent: Spent
    ) -> dict[str, float]:
        """Train to the end of the round, saving between segments; gives the numbers of all."""
        stream, measured = self._stream(instruction.client), Measured()
        home, is_first = self.files.home(instruction.client), self.trainer.world.is_first
        beacon = Beacon(home / FILE if is_first else None)
        pace = Pace(self._step_seconds, should_stop)
        watched = StepBeacon(
            beacon, pace, {"round": instruction.round},
            done=self.trainer.state.steps_done, total=instruction.local_steps,
            tokens=self.inner.tokens_per_step,
        )  # fmt: skip
        while (left := instruction.local_steps - self.trainer.state.steps_done) > 0:
            steps = min(left, self.inner.segment_steps)
            with spent.on("train") as taking, training_memory_kept():
                segment = self.trainer.train(stream, steps, watched)
                pace.end_step()
            self.steps_taken += len(segment.taken)
            if segment.taken:
                numbers = self._measure(segment, taking())
                measured = measured.and_then(len(segment.taken), numbers)
            if segment.state.steps_done < instruction.local_steps:
                with spent.on("write"):
                    snapshot = self.trainer.snapshot()
                    if is_first:
                        self.files.keep_open(instruction, snapshot)
                if should_stop():
                    raise Stopped
        beacon.close()
        return measured.numbers

    def _finish(
        self,
        instruction: Instruction,
        params: Tree,
        before: ClientState,
        lost: bool,
        metrics: dict[str, float],
        spent: Spent,
    ) -> Future[Path]:
        """Keep the update and the client's new state together: both have happened, or neither."""
        behind, world = self.files.behind, self.trainer.world
        with spent.on("write"):
            behind.enter()
        behind.hold()
        try:
            with spent.on("encode"):
                out = self._leave(instruction, params, before)
            if out.kept and world.size == 1:
                self._residents.keep(
                    instruction.client, instruction.round, self.trainer.optimizer.moments()
                )
            update = self._update(instruction, out, lost, {**metrics, **spent.metrics})
            state, landed = self._state_after(instruction, out), self._offload.landed()
        except BaseException:
            behind.leave()
            raise
        if not world.is_first:
            behind.leave()
            return _done(self.files.home(instruction.client))
        return self.files.keep(instruction, update, state, landed)

    def _leave(self, instruction: Instruction, params: Tree, before: ClientState) -> Outgoing:
        """Encode what is sent, and copy what stays, from the live state."""
        trainer, fl = self.trainer, self.federation
        moments = trainer.optimizer.moments()
        trees = leaving(fl, self.layers, trainer.params, moments)
        return outgoing(
            fl, self.layers, params, trainer.whole(trees),
            averaged_in(fl, moments, instruction.round),
            _faded(before, instruction.round, fl.compression.residual_decay), self._offload,
        )  # fmt: skip

    def _state_after(self, instruction: Instruction, out: Outgoing) -> ClientState:
        state = self.trainer.state
        return ClientState(
            round=instruction.round,
            stream=state.streams[0],
            moments=out.kept,
            optimizer_step=state.optimizer_step,
            loss_scale=state.loss_scale,
            layers=out.layers,
            residual=out.residual,
        )

    def _update(
        self, instruction: Instruction, out: Outgoing, lost: bool, metrics: dict[str, float]
    ) -> Update:
        state = self.trainer.state
        return Update(
            run=instruction.run,
            round=instruction.round,
            client=instruction.client,
            gradient=out.gradient,
            moments=out.moments,
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

    def _stream(self, client: int) -> JoinedStream:
        if client not in self._streams:
            self._streams[client] = JoinedStream([self.data.stream(client)])
        return self._streams[client]


def _faded(before: ClientState, round_number: int, decay: float) -> dict[str, Tensor]:
    """What is fed back of a residual, which fades with every round, of absence too."""
    factor = decay ** (round_number - before.round)
    if factor == 1.0:
        return dict(before.residual)
    return {name: value * factor for name, value in before.residual.items()}


def _done(path: Path) -> Future[Path]:
    future: Future[Path] = Future()
    future.set_result(path)
    return future


def _first_layers(inner: Inner, seed: int, layers: LayerRoles) -> dict[str, Tensor]:
    """Seeded values of a client's own layers: what one begins with that has lost its own."""
    if not layers.personal:
        return {}
    model = build_model(inner, seed)
    return {name: parameters_of(model)[name] for name in layers.personal}
