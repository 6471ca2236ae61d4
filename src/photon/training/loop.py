"""The inner loop: a number of optimizer steps, then it returns.

Whoever calls it saves, validates or stops between segments. One client of a federation and a
centralised run use the same `Trainer`; the latter merely has no outer step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np
import torch
from torch import Tensor

from photon.config.llm import Inner
from photon.core.messages import StreamState
from photon.core.tree import Tree
from photon.data.read.prefetch import prefetch
from photon.data.read.stream import JoinedStream
from photon.errors import NonFiniteLoss
from photon.model.build import load_parameters, parameters_of
from photon.model.sharding import full_tensor, like_parameter
from photon.training.gradient import accumulate_gradient, unscale_and_clip
from photon.training.optim import InnerOptimizer
from photon.training.parallel import ALONE, World, build_parallel
from photon.training.schedule import lr_factor
from photon.training.state import Segment, TrainState

PARAMS = "params"
"""Among live trees: that of the parameters; the others are moments."""


class Trainer:
    """A model and its inner optimizer, resident on a device; states are swapped in and out.

    With several processes all of them call each method together. States are whole: `load` cuts one
    up, `snapshot` gathers one, on the first process only.

    Args:
        config: resolved (no `auto`, no null in the schedule).
        seed: address of the initial weights.
        frozen: names of parameters that stay as they are.
    """

    def __init__(
        self,
        config: Inner,
        seed: int,
        device: torch.device,
        world: World = ALONE,
        frozen: Collection[str] = (),
    ) -> None:
        self.config, self.device, self.world = config, device, world
        self.parallel = build_parallel(config, seed, device, world, frozen)
        self.model = self.parallel.model
        self.optimizer = InnerOptimizer(self.model, config.optimizer)
        self.state = TrainState()
        self._scaled = config.precision == "amp_fp16"
        # Only these may leave a step out, so only they wait for the device after every step.
        self._may_skip = self._scaled or config.nonfinite_loss == "skip"

    def load(self, state: TrainState) -> None:
        """Make `state` the live one; its tensors are copied, and not held."""
        load_parameters(self.model, state.params)
        self.optimizer.load(state.moments, state.optimizer_step)
        self.state = replace(state, params={}, moments={})

    @torch.no_grad()
    def shift(self, by: Tree, moments: Iterable[tuple[str, str, Tensor]]) -> None:
        """Add to live parameters and moments; means of squares are not left below zero."""
        own = {PARAMS: self.params, **self.optimizer.moments()}
        for name, value in by.items():
            own[PARAMS][name].add_(like_parameter(value, own[PARAMS][name]))
        for moment, name, value in moments:
            live = own[moment][name].add_(like_parameter(value, own[moment][name]))
            if moment == "exp_avg_sq":
                live.clamp_(min=0.0)

    def snapshot(self, *, moments: bool = True) -> TrainState:
        """Copy the live state, its tensors to the CPU, one at a time.

        Args:
            moments: whether those of the optimizer are wanted; they are most of the bytes.
        """
        trees = self.optimizer.moments() if moments else {}
        copies: dict[str, dict[str, Tensor]] = {name: {} for name in (PARAMS, *trees)}
        for tree, name, value in self.whole({PARAMS: self.params, **trees}):
            copies[tree][name] = value.to("cpu", copy=True)
        return replace(self.state, params=copies.pop(PARAMS), moments=copies)

    @property
    def params(self) -> dict[str, Tensor]:
        """The live parameters; views."""
        return parameters_of(self.model)

    def whole(self, trees: Mapping[str, Tree]) -> Iterator[tuple[str, str, Tensor]]:
        """Live tensors, each whole and with its tree and name, one at a time.

        All processes go through it together; only the first one gets any. What it gets may be
        written to: it is a copy, or the live tensor, which then waits for the next `load`.
        """
        for tree, values in trees.items():
            for name, value in values.items():
                whole = full_tensor(value)
                if self.world.is_first:
                    yield tree, name, whole

    def train(
        self,
        stream: JoinedStream,
        steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Segment:
        """Take up to `steps` optimizer steps; fewer if `should_stop` says so between two of them.

        Returns:
            What each step measured, and the live state, without tensors (`snapshot` has them).

        Raises:
            NonFiniteLoss: a loss or gradient was NaN or infinite, and `nonfinite_loss` is `stop`.
            DeviceError: out of memory.
        """
        state, batch = self.state, self.config.batch_rows
        measured = torch.zeros(2, steps, dtype=torch.float64, device=self.device)
        rates: list[float] = []
        taken: list[bool] = []
        places = [state.streams]
        self.model.train()
        with prefetch(stream, state.streams, batch, self._part) as batches:
            while len(taken) < steps and not should_stop():
                rows, after = batches.next()
                loss, norm = self._gradient(rows, state.loss_scale.factor)
                measured[:, len(taken)] = torch.stack([loss, norm.double()])
                rates.append(self.config.optimizer.lr * lr_factor(self.config.schedule, state.step))
                taken.append(not self._may_skip or self._is_good(loss, norm))
                if taken[-1]:
                    self.optimizer.step(rates[-1])
                tokens = batch * (rows.shape[1] - 1)
                state = state.after_step(tokens, after, taken=taken[-1], scaled=self._scaled)
                places.append(after)
        segment = replace(
            self._close(state, measured, rates, taken), data_wait=batches.seconds_waited
        )
        if (bad := segment.first_bad_step()) is not None:
            raise self._diverged(segment, bad, stream, places[bad])
        self.state = segment.state
        return segment

    def _part(self, rows: np.ndarray) -> Tensor:
        """This process's rows of a batch, in memory that a GPU reads without a stop."""
        part = self.world.part(torch.from_numpy(rows))
        if self.device.type != "cuda":
            return part
        with torch.cuda.device(self.device):
            return part.pin_memory()

    def _gradient(self, part: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Set the gradient of a step from this process's rows; gives their summed loss and the
        gradient's norm.
        """
        scale = scale if self._scaled else 1.0
        microbatch = self.config.microbatch_rows
        loss = accumulate_gradient(
            self.parallel,
            part.to(self.device, non_blocking=True),
            microbatch=len(part) if microbatch == "auto" else microbatch,
            scale=scale,
            precision=self.config.precision,
        )
        return loss, unscale_and_clip(self.model, scale, self.config.clip_norm)

    def _is_good(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether to take the step, for all processes alike.

        Where a bad loss is to stop the run the step is taken, and `first_bad_step` finds it.
        """
        if not math.isfinite(float(self.world.sum(loss.clone()))):
            return self.config.nonfinite_loss == "stop"
        return math.isfinite(float(norm))

    def _close(
        self, state: TrainState, measured: Tensor, rates: Sequence[float], taken: Sequence[bool]
    ) -> Segment:
        """Read what the steps measured: the one wait for the device in a segment."""
        self.world.sum(measured[0])
        sums, norms = measured[:, : len(taken)].tolist()
        total = self.state.loss_sum
        # One by one: `sum` rounds otherwise, so that the bits would depend on where segments end.
        for loss in compress(sums, taken):
            total += loss
        tokens = self.config.batch_rows * self.config.row_length
        return Segment(
            state=replace(state, loss_sum=total),
            num_tokens=state.num_tokens - self.state.num_tokens,
            losses=[loss / tokens for loss in sums],
            gradient_norms=norms,
            learning_rates=rates,
            taken=taken,
        )

    def _diverged(
        self, segment: Segment, index: int, stream: JoinedStream, place: Sequence[StreamState]
    ) -> NonFiniteLoss:
        loss, norm = segment.losses[index], segment.gradient_norms[index]
        rows = stream.describe(place, self.config.batch_rows)
        return NonFiniteLoss(
            f"step {self.state.step + index + 1}: the training loss is {loss} and the gradient's "
            f"norm {norm}; its rows: {rows}; lower llm_config.optimizer.lr, check these rows, or "
            "set llm_config.nonfinite_loss=skip"
        )
