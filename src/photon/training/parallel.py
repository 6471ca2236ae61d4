"""Several devices that train one model together; a single device is the trivial case."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from photon.config.llm import Inner
from photon.errors import ConfigError
from photon.model.build import LanguageModel, build_model, empty_model
from photon.model.fp8 import PRECISION, require_fp8, use_fp8
from photon.model.precision import DTYPES


@dataclass(frozen=True, slots=True)
class World:
    """The processes of one job, one per device.

    Attributes:
        rank: this process; 0 saves and prints.
        size: processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch.

        Raises:
            ConfigError: the batch does not divide.
        """
        if len(rows) % self.size:
            raise ConfigError(
                f"llm_config.global_train_batch_size={len(rows)} must be a multiple of the "
                f"{self.size} processes of the job"
            )
        share = len(rows) // self.size
        return rows[self.rank * share : (self.rank + 1) * share]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether it is true for one of the processes; asked on the CPU, so no device waits."""
        return bool(self.sum(torch.tensor(int(flag))))


ALONE = World()


@dataclass(frozen=True, slots=True)
class ParallelModel:
    """A model as the loop sees it.

    Attributes:
        model: names and holds the parameters.
        call: the model's forward pass; the backward pass averages over the processes.
        defer: context in which a backward pass leaves the averaging to the last microbatch.
    """

    model: LanguageModel
    call: Callable[..., Any]
    defer: Callable[[], AbstractContextManager]


def build_parallel(
    inner: Inner, seed: int, device: torch.device, world: World, frozen: Collection[str] = ()
) -> ParallelModel:
    """Build a seeded model on one device, replicated (DDP), or sharded (FSDP2).

    Sharding happens before the weights take memory, and each weight is drawn whole and cut, so that
    the model is the same bits for any number of processes.

    Raises:
        ConfigError: a sharded model cannot be compiled as a whole; or the precision is not for
            this device, or not for this model.
    """
    sharded = is_sharded(inner, world.size)
    if sharded and inner.compile == "whole":
        raise ConfigError(
            "llm_config.compile=whole: a sharded model gathers its blocks one by one, so they are "
            "compiled one by one; set llm_config.compile=true, or fsdp_config=null for replicas"
        )

    def shard(model: nn.Module) -> None:
        freeze(model, frozen)
        _fully_shard(model, inner, device)

    model = build_model(inner, seed, device, shard=shard if sharded else None)
    freeze(model, frozen)
    if inner.precision == PRECISION:
        require_fp8(device, inner.row_length)
        use_fp8(model.blocks)  # pyright: ignore
    if inner.compile == "whole":
        model.compile_whole()
    elif inner.compile is True:
        model.compile_blocks()
    if world.size == 1 or sharded:
        return ParallelModel(model, model, nullcontext)
    replica = _replicate(model)
    return ParallelModel(model, replica, replica.no_sync)


def require_precision(inner: Inner, device: torch.device) -> None:
    """Refuse early what `build_parallel` would refuse.

    Raises:
        ConfigError: the precision is not for this device, or not for this model.
    """
    if inner.precision == PRECISION:
        require_fp8(device, inner.row_length)
        use_fp8(empty_model(inner).blocks)  # pyright: ignore


def freeze(model: nn.Module, names: Collection[str]) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)


def _replicate(model: nn.Module):
    """DDP; buffers are tables that every process computes alike, so they are not sent."""
    from torch.nn.parallel import DistributedDataParallel as Replica

    make = partial(Replica, model, gradient_as_bucket_view=True)
    if "forward_sync_buffers" in inspect.signature(Replica.__init__).parameters:
        return make(forward_sync_buffers=False)  # pyright: ignore[reportCallIssue]
    return make(broadcast_buffers=False)


def is_sharded(inner: Inner, processes: int) -> bool:
    """Whether the processes of a job shard the model (FSDP2) rather than replicate it."""
    fsdp = inner.sharding
    return processes > 1 and fsdp is not None and fsdp.sharding_strategy != "NO_SHARD"


def _fully_shard(model: nn.Module, inner: Inner, device: torch.device) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    fsdp = inner.sharding
    assert fsdp is not None
    dtype = DTYPES.get(inner.precision)
    reduce = dtype if fsdp.mixed_precision == "PURE" else torch.float32
    options = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "reshard_after_forward": fsdp.sharding_strategy == "FULL_SHARD",
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=dtype and reduce),
    }
    for block in model.blocks:  # pyright: ignore
        fully_shard(block, **options)
    fully_shard(model, **options)
