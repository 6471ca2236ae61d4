"""The clients of this machine: their training, one after the other, on one device.

A node keeps the model built and swaps clients' states in and out. Whatever happens to it, a client
is trained exactly once per round: an open round goes on from its last segment, a finished one
answers with the update that was kept. What a client leaves is written while the next one trains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from photon.config.llm import Inner
from photon.config.resolve import Run
from photon.core.codec import read
from photon.core.held import descent
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
from photon.model.build import build_model, empty_model, parameters_of
from photon.node.client_files import ClientFiles, states_kept
from photon.node.course import Course, Segments, Stopped, is_of
from photon.node.measure import Spent
from photon.node.news import filled, joined, news
from photon.node.noise import share_of
from photon.node.residents import Residents
from photon.run.run_data import RunData
from photon.training.fragments import Fragments
from photon.training.going_on import Beginning, arrival, beginning, moments_arriving
from photon.training.layers import LayerRoles, layers_of
from photon.training.loop import Trainer
from photon.training.offload import Offload
from photon.training.outgoing import Due, Outgoing, faded, leaving, outgoing
from photon.training.outline import averaged_in, codecs_of
from photon.training.parallel import ALONE, World
from photon.training.reach import matched
from photon.training.state import TrainState


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
        self.files = ClientFiles(
            folder, run.federation.forgets_clients, states_kept(run.checkpoints_kept)
        )
        names = list(parameters_of(empty_model(run.inner)))
        self.layers = layers_of(run.federation, names)
        self._first = _first_layers(run.inner, run.seed, self.layers)
        self.trainer = self._make_trainer(run, device, world)
        self._offload, self._residents = Offload(device), Residents(device)
        self._segments = Segments(
            self.trainer, self.files, run.inner, run.machine.step_seconds or 0.0
        )
        self._streams: dict[int, JoinedStream] = {}
        self._fragments = Fragments.of(run.federation, self.layers, self.trainer.params)
        self._foreseen: Instruction | None = None
        self._fixed: Tree = {}
        self._under_way: Course | None = None
        self.steps_taken = 0

    def _make_trainer(self, run: Run, device: torch.device, world: World) -> Trainer:
        return Trainer(run.inner, run.seed, device, world, self.layers.frozen)

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
        self.steps_taken = 0
        self.files.settle(instruction.client)
        if answer := self.files.answer(instruction):
            return _done(answer)
        course, is_live = self._course(instruction)
        with course.spent.on("load"):
            before, lost = self.files.before(instruction)
            course.descent = descent(instruction.descent, instruction, lost=lost)
            base, averaged = self._base(instruction, received)
            base = {**self._first, **base, **before.layers}
            arriving = self._arriving(instruction, before)
            averaged = news(received, averaged, before)
            begun = beginning(instruction, base, before, arriving, self.federation.fragment_alpha)
            at_once = {} if begun.giving_way else averaged
            if not is_live:
                self._load(course, before, begun.params, at_once)
        self.files.behind.go()
        if following is not None:
            self.files.read_ahead(following)
        if not is_live and not course.is_resumed:
            course.metrics |= self._score_own(instruction, "val_loss", course.spent)
        if begun.giving_way and not course.has_arrived:
            self._run(course, instruction.ahead, should_stop)
            self._arrive(course, begun, base, before, averaged)
            course.has_arrived = True
        self._run(course, instruction.local_steps, should_stop)
        course.metrics |= self._score_own(instruction, "trained_val_loss", course.spent)
        self._residents.trained()
        self._foresee(course, base)
        return self._finish(course, base, before, lost)

    def go_on(self, should_stop: Callable[[], bool]) -> None:
        """Take first steps of the next round, of the client that was trained first in this one,
        while updates travel and nothing else is to do.

        It changes no bits, and is lost where another client is trained first: the round takes these
        steps in any case.
        """
        instruction = self._foreseen
        if instruction is None or should_stop():
            return
        course, is_live = self._course(instruction)
        try:
            if not is_live:
                self.files.settle(instruction.client)
                before, lost = self.files.before(instruction)
                if lost or not before.ahead:
                    return
                self._load(course, before, {**self._fixed, **before.ahead, **before.layers}, {})
            self._under_way = course
            self._run(course, instruction.ahead, should_stop)
        except Stopped:
            return
        except Exception:  # the round itself will meet it, and tell; its client has delivered
            self._under_way = self._foreseen = None

    def _course(self, instruction: Instruction) -> tuple[Course, bool]:
        """The training that an instruction asks for, and whether it is under way in the trainer."""
        live, self._under_way = self._under_way, None
        done = self.trainer.state.steps_done
        if live is None or not is_of(live.instruction, instruction, done):
            return Course(instruction), False
        live.instruction = instruction
        return live, True

    def _foresee(self, course: Course, base: Tree) -> None:
        """Remember what the next round will ask of a client, if this one's update is accepted."""
        instruction, fl = course.instruction, self.federation
        number = instruction.round + 1
        if self._foreseen is not None and self._foreseen.round == number:
            return
        self._foreseen = None
        period = fl.validation_period if fl.validates_clients else 0
        scores_first = period and instruction.round % period == 0
        if not fl.most_ahead or self.trainer.world.size > 1 or scores_first or number > fl.rounds:
            return
        self._fixed = {name: base[name] for name in self.layers.frozen}
        steps = instruction.local_steps
        longest = max(steps, self.inner.local_steps)  # of other clients: a round is as long
        self._foreseen = replace(
            instruction,
            round=number,
            first_step=instruction.first_step + longest,
            base_digest="",
            last_accepted=instruction.round,
            descent=course.descent,
            evaluate=False,
            ahead=min(fl.most_ahead, steps),
        )

    def _arriving(self, instruction: Instruction, before: ClientState) -> Collection[str]:
        """Parameters that the base brings: others merged them since the client's round."""
        return self._fragments.since(before.round, instruction.round)

    def _load(self, course: Course, before: ClientState, params: Tree, averaged: Moments) -> None:
        """Put what training goes on from, or begins with, into the trainer."""
        resumed, course.has_arrived = self.files.opened(course.instruction)
        course.is_resumed = resumed is not None
        self.trainer.load(resumed or self._begin(course.instruction, before, params, averaged))

    def _run(self, course: Course, until: int, should_stop: Callable[[], bool]) -> None:
        stream = self._stream(course.instruction.client)
        may_save = course is not self._under_way
        self.steps_taken += self._segments.run(course, until, stream, should_stop, may_save)

    def _arrive(
        self,
        course: Course,
        begun: Beginning,
        base: Tree,
        before: ClientState,
        averaged: Moments,
    ) -> None:
        """Let base and averaged moments take the place of what training has begun with."""
        fl, optimizer = self.federation, self.inner.optimizer
        own = self._residents.moments(course.instruction.client, before.round, before.moments)
        taken = course.instruction.ahead - self.trainer.state.skipped_steps
        moments = moments_arriving(averaged, own, optimizer, taken)
        self.trainer.shift(arrival(begun, base, fl.fragment_alpha), moments)
        if averaged and fl.averages_apart:
            live = self.trainer.optimizer.moments()
            fitting = matched(live, optimizer, self.trainer.state.optimizer_step)
            for name, value in fitting.get("exp_avg", {}).items():
                live["exp_avg"][name].copy_(value)

    def forget(self) -> None:
        """Know of clients what is in their files: their last rounds were trained anew elsewhere."""
        self._under_way = self._foreseen = None
        self._residents.forget()
        self.files.forget()

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
            own, step = joined(own, averaged), instruction.first_step
            # Of a newcomer some may not have had their turn yet.
            if own and (fl.averages_apart or fl.fragments > 1):
                own = filled(own, self.trainer.optimizer.moments())
            if averaged and fl.averages_apart:
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

    def _finish(
        self, course: Course, params: Tree, before: ClientState, lost: bool
    ) -> Future[Path]:
        """Keep the update and the client's new state together: both have happened, or neither."""
        instruction, spent = course.instruction, course.spent
        behind, world = self.files.behind, self.trainer.world
        with spent.on("write"):
            behind.enter()
        behind.hold()
        try:
            with spent.on("encode"):
                out = self._leave(instruction, params, before)
            if out.kept and world.size == 1:
                live = self.trainer.optimizer.moments()
                self._residents.keep(instruction.client, instruction.round, live)
            update = self._update(instruction, out, lost, course.numbers)
            state, landed = self._state_after(course, out), self._offload.landed()
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
        fragment = self._fragments.of_round(instruction.round)
        averaged = averaged_in(fl, moments, instruction.round)
        due = Due(fragment, averaged, instruction.part, instruction.again)
        residual = faded(before, instruction.round, fl.compression.residual_decay)
        told = before.told if before.round == instruction.round - 1 else {}
        before = replace(before, residual=residual, told=told)
        run_folder = self.files.folder.parent
        share = share_of(fl, run_folder, instruction, params, trainer, fragment)
        live = trainer.whole(trees)
        return outgoing(fl, self.layers, params, live, due, before, self._offload, share)

    def _state_after(self, course: Course, out: Outgoing) -> ClientState:
        state = self.trainer.state
        return ClientState(
            round=course.instruction.round,
            descent=course.descent,
            stream=state.streams[0],
            moments=out.kept,
            optimizer_step=state.optimizer_step,
            loss_scale=state.loss_scale,
            layers=out.layers,
            residual=out.residual,
            ahead=out.ahead,
            told=out.told,
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
