"""Photon beside DiLoCo in plain torch: the same model, rows and rule, so the same trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from minimal_transformer import MinimalTransformer
from plain_diloco import Batches, Recipe, diloco
from torch import Tensor
from training_arms import Seconds

from photon.config import Config
from photon.core.messages import StreamState
from photon.data.read.stream import Stream
from photon.experiment.experiment import train
from photon.model.build import build_model
from photon.run.checkpoint import load_parameters, newest_checkpoint
from photon.run.run_data import RunData
from photon.run.run_folder import RunFolder
from photon.run.trackers import Tracker, read_lines

CLIENTS = 4


@dataclass(frozen=True)
class Ran:
    """What an arm gave.

    Attributes:
        losses: mean training loss of each round.
        seconds: of each round but the first.
    """

    params: dict[str, Tensor]
    losses: list[float]
    seconds: list[Seconds]


def keys(recipe: Recipe, *shape: str) -> list[str]:
    """Photon's configuration of the same run; clients save once a round, as any preset lets them
    where rounds are so short.
    """
    return ["recipe=smoke", "llm_config.compile=false", "fl.strategy_name=nesterov",
            "fl.aggregate_momenta=false", "fl.compression=fp32", "fl.eval_period=null",
            f"fl.n_total_clients={CLIENTS}", f"fl.n_rounds={recipe.rounds}",
            f"fl.strategy_kwargs.server_learning_rate={recipe.outer_lr}",
            f"fl.strategy_kwargs.server_momentum={recipe.outer_momentum}",
            "llm_config.optimizer.name=adamw", f"llm_config.optimizer.lr={recipe.lr}",
            f"llm_config.optimizer.weight_decay={recipe.weight_decay}",
            f"llm_config.local_steps={recipe.local_steps}",
            f"llm_config.save_interval={recipe.local_steps}ba",
            f"llm_config.scheduler.schedulers.lr.t_warmup={recipe.warmup}ba",
            f"llm_config.scheduler.schedulers.lr.alpha_f={recipe.floor}",
            "llm_config.scheduler.schedulers.lr.t_max="
            f"{recipe.rounds * recipe.local_steps}ba", *shape]  # fmt: skip


def ours(config: Config) -> Ran:
    """Photon's local engine, durable as ever; a round lasts from record to record."""
    ends: list[Seconds] = []

    def console(folder: RunFolder, label: str) -> Tracker:
        return lambda record: ends.append(Seconds.now())

    folder = Path(train(config, console=console).folder)
    params = load_parameters(newest_checkpoint(folder / "checkpoints"))
    losses = [record["train_loss"] for record in read_lines(folder / "metrics.jsonl")]
    return Ran(params, losses, _between(ends))


def plain(config: Config, recipe: Recipe) -> Ran:
    """From Photon's first parameters and in the order of its rows; the rest is torch."""
    shape = config.inner.model
    model = MinimalTransformer(
        layers=shape.n_layers,
        width=shape.d_model,
        heads=shape.n_heads,
        vocab=shape.vocab_size,
        length=config.inner.row_length,
        hidden=shape.ffn_hidden_size,
    )
    model.load_state_dict(build_model(config.inner, config.seed).state_dict())
    data = RunData.of(*config.reading)
    batches = [in_order(data.stream(c), config.inner.batch_rows) for c in range(CLIENTS)]
    ends = [Seconds.now()]
    found = diloco(model, batches, recipe, lambda: ends.append(Seconds.now()))
    params = {name: value.detach() for name, value in model.named_parameters()}
    return Ran(params, found.losses, _between(ends[1:]))


def _between(ends: Sequence[Seconds]) -> list[Seconds]:
    return [b.since(a) for a, b in pairwise(ends)]


def in_order(stream: Stream, count: int) -> Batches:
    """A client's batches, one after another."""
    place = [StreamState()]

    def following() -> Tensor:
        rows, place[0] = stream.read(place[0], count)
        return torch.from_numpy(rows)

    return following


def gap(a: Ran, b: Ran) -> dict[str, float]:
    """How far two trajectories are apart: losses, and parameters by their largest element."""
    params = max(float((a.params[n] - b.params[n]).abs().max()) for n in a.params)
    losses = max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))
    return {"parameter_gap": params, "loss_gap": losses}
