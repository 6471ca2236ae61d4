"""One process of a job: trains each variant a few steps and saves what came out.

Run as `two_processes.py CONFIG OUT`, with the environment that torchrun gives.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from photon.config import Config
from photon.config.compose import checked, with_values
from photon.core.tree import Tree
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream
from photon.evaluation.loss import Share, evaluate_loss
from photon.machine.process_group import from_first, process_group
from photon.run.checkpoint import save_train_state
from photon.run.run_data import RunData
from photon.training.loop import Trainer
from photon.training.parallel import World

OPTIMIZERS = ("adamw", "decoupled_adamw", "adopt", "muon", "sgd")
STRATEGIES = {"ddp": "NO_SHARD", "fsdp": "FULL_SHARD"}
STEPS = 4


def variants() -> dict[str, dict]:
    """Changes of the configuration, by name."""
    key = "llm_config.fsdp_config.sharding_strategy"
    made = {
        f"{strategy}-{name}": {"llm_config.optimizer.name": name, key: STRATEGIES[strategy]}
        for strategy in STRATEGIES
        for name in OPTIMIZERS
    }
    adamw = {"llm_config.optimizer.name": "adamw"}
    made["fsdp-microbatch-checkpointing"] = {
        **adamw,
        "llm_config.device_train_microbatch_size": 1,
        "llm_config.fsdp_config.activation_checkpointing": True,
    }
    made["ddp-microbatch"] = {
        **adamw,
        "llm_config.device_train_microbatch_size": 1,
        key: "NO_SHARD",
    }
    # SGD: the gradient of a key's bias is zero but for rounding, which Adam would magnify.
    made["fsdp-mpt"] = {
        "llm_config.optimizer.name": "sgd",
        "llm_config.model.name": "mpt_causal_lm",
    }
    return made


def train(config: Config, world: World, stream: JoinedStream):
    """Half the steps, a move of the whole state to a second trainer, the other half."""
    first = Trainer(config.inner, config.seed, torch.device("cpu"), world)
    first.state = replace(first.state, streams=stream.start())
    losses = list(first.train(stream, STEPS // 2).losses)
    state = _everywhere(first.snapshot(), world)
    second = Trainer(config.inner, 99, torch.device("cpu"), world)
    second.load(state)
    losses += second.train(stream, STEPS // 2).losses
    return second, losses


def _everywhere(state, world: World):
    """The first process's tensors on all of them, as a checkpoint on disk would be."""
    if world.size == 1:
        return state

    def spread(tree: Tree, like: dict[str, list[int]]) -> dict[str, torch.Tensor]:
        tensors = {n: tree[n] if world.is_first else torch.empty(s) for n, s in like.items()}
        for value in tensors.values():
            torch.distributed.broadcast(value, 0)
        return tensors

    trees = {"params": state.params, **state.moments}
    shapes = from_first(
        world, lambda: {k: {n: list(v.shape) for n, v in t.items()} for k, t in trees.items()}
    )
    spreads = {k: spread(trees.get(k, {}), like) for k, like in shapes.items()}
    return replace(state, params=spreads.pop("params"), moments=spreads)


def run(config: Config, out: Path, world: World) -> None:
    data = RunData.of(config.data, config.inner, config.seed)
    stream = JoinedStream([data.stream(0)])
    for name, changes in variants().items():
        changed = with_values(config, changes)
        trainer, losses = train(changed, world, stream)
        rows = Rows(data.root / "validation")
        share = Share(world.rank, world.size, world.sum)
        report = evaluate_loss(trainer.model, rows, batch_size=3, max_rows=15, share=share)
        state = trainer.snapshot()
        if world.is_first:
            facts = {"losses": losses, "val_loss": report.loss, "tokens": report.num_tokens}
            save_train_state(out, f"{name}-{world.size}", state, facts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with process_group("cpu") as (world, _):
        run(checked(Config, json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), world)
