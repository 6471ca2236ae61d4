"""The inner loop: so many optimizer steps, then it returns.

Whoever calls it saves, validates or stops between segments. One client of a federation and a
centralised run use the same `Trainer`; the latter merely has no outer step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from photon.config.schema import LlmConfig
from photon.core.messages import StreamState
from photon.core.tree import Tree, clone
from photon.data.stream import JoinedStream
from photon.errors import DeviceError, NonFiniteLoss
from photon.model.decoder import build_model, cross_entropy_sum, load_parameters, parameters_of
from photon.training.optim import InnerOptimizer
from photon.training.schedule import cosine_with_warmup


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """What the loop saves and resumes.

    Attributes:
        params, moments: trees on the CPU.
        optimizer_step: steps that the moments have seen.
        step: the next step of the run; the schedule reads it.
        steps_done, num_tokens, loss_sum: since training of this round (or run) began; the sum is
            over tokens, in nats.
        streams: positions in the data.
    """

    params: Tree
    moments: Mapping[str, Tree] = field(default_factory=dict)
    optimizer_step: int = 0
    step: int = 0
    steps_done: int = 0
    num_tokens: int = 0
    loss_sum: float = 0.0
    streams: tuple[StreamState, ...] = ()

    @property
    def train_loss(self) -> float:
        """Mean training loss in nats per token; NaN before the first step."""
        return self.loss_sum / self.num_tokens if self.num_tokens else math.nan


class Trainer:
    """A model and its inner optimizer, resident on a device; states are swapped in and out.

    Args:
        config: resolved (no `auto`, no null in the schedule).
        seed: address of the initial weights.
        device: where the model lives.
    """

    def __init__(self, config: LlmConfig, seed: int, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = build_model(config.model, config.max_seq_len, seed).to(device)
        self.optimizer = InnerOptimizer(self.model, config.optimizer)
        self.state = TrainState(params=clone(parameters_of(self.model)))

    def load(self, state: TrainState) -> None:
        """Make `state` the live one; its tensors are copied."""
        load_parameters(self.model, state.params)
        self.optimizer.load(state.moments, state.optimizer_step)
        self.state = state

    def snapshot(self) -> TrainState:
        """Copy the live state, its tensors to the CPU."""
        moments = self.optimizer.moments()
        return replace(
            self.state,
            params={n: v.cpu().clone() for n, v in parameters_of(self.model).items()},
            moments={
                m: {n: v.cpu().clone() for n, v in tree.items()} for m, tree in moments.items()
            },
        )

    def train(
        self,
        stream: JoinedStream,
        steps: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TrainState:
        """Take up to `steps` optimizer steps; fewer if `should_stop` says so between two of them.

        Returns:
            The live state; its tensors are those of the last `load` (`snapshot` copies the new
            ones).

        Raises:
            NonFiniteLoss: the segment's loss is NaN or infinite.
            DeviceError: out of memory.
        """
        state, tokens = self.state, 0
        # One running sum from the state on, so that its bits do not depend on the segments.
        loss_sum = torch.tensor(state.loss_sum, dtype=torch.float64, device=self.device)
        streams, done = state.streams, 0
        self.model.train()
        while done < steps and not should_stop():
            rows, streams = stream.read(streams, self.config.global_train_batch_size)
            loss_sum += self._step(torch.from_numpy(rows), state.step + done)
            tokens += rows.shape[0] * (rows.shape[1] - 1)
            done += 1
        total = float(loss_sum)
        if not math.isfinite(total):
            raise NonFiniteLoss(
                f"the training loss is {total} between steps {state.step + 1} and "
                f"{state.step + done}; lower llm_config.optimizer.lr or check the data"
            )
        self.state = replace(
            state,
            optimizer_step=state.optimizer_step + done,
            step=state.step + done,
            steps_done=state.steps_done + done,
            num_tokens=state.num_tokens + tokens,
            loss_sum=total,
            streams=streams,
        )
        return self.state

    def _step(self, rows: Tensor, step: int) -> Tensor:
        """One optimizer step on rows [B, L + 1]; gives the summed loss of its tokens."""
        schedule = self.config.scheduler.schedulers.lr
        assert schedule.t_warmup is not None  # resolved
        assert schedule.t_max is not None
        factor = cosine_with_warmup(
            step, t_warmup=schedule.t_warmup, t_max=schedule.t_max, alpha_f=schedule.alpha_f
        )
        loss = accumulate_gradient(self.model, rows.to(self.device), self._microbatch())
        if clipping := self.config.algorithms.gradient_clipping:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clipping.clipping_threshold)
        self.optimizer.step(self.config.optimizer.lr * factor)
        return loss

    def _microbatch(self) -> int:
        size = self.config.device_train_microbatch_size
        return self.config.global_train_batch_size if size == "auto" else size


def accumulate_gradient(model: torch.nn.Module, rows: Tensor, microbatch: int) -> Tensor:
    """Set the gradient of the mean token loss of `rows`, microbatch by microbatch.

    Every token has the same weight, so the result does not depend on the microbatch beyond
    rounding.

    Args:
        rows: [B, L + 1], int64, on the model's device.
        microbatch: rows of one forward pass.

    Returns:
        Summed token loss in nats, float64, on the device.
    """
    tokens = rows.shape[0] * (rows.shape[1] - 1)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for parameter in model.parameters():
        parameter.grad = None
    try:
        for part in rows.split(microbatch):
            logits = model(part[:, :-1])
            loss = cross_entropy_sum(logits.flatten(0, 1), part[:, 1:].flatten())
            (loss / tokens).backward()
            total += loss.detach()
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"out of memory with {microbatch} rows in one forward pass; lower "
            "llm_config.device_train_microbatch_size"
        ) from error
    return total
