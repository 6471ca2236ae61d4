"""Tensors that several processes hold together, and their full form; one at a time."""

from __future__ import annotations

from torch import Tensor


def is_sharded(value: Tensor) -> bool:
    """Whether this process holds only a part of the tensor."""
    return hasattr(value, "device_mesh")


def full_tensor(value: Tensor) -> Tensor:
    """The whole tensor: of a sharded one a copy, gathered by all its processes together."""
    return value.full_tensor() if is_sharded(value) else value  # pyright: ignore


def like_parameter(value: Tensor, parameter: Tensor) -> Tensor:
    """A copy of the full `value` where `parameter` lives: on its device, sharded as it is.

    Every process has `value`, so nothing is sent: each takes its own part.
    """
    if not is_sharded(parameter):
        return value.to(parameter, copy=True)
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(device=parameter.device, dtype=parameter.dtype)
    return distribute_tensor(
        whole,
        parameter.device_mesh,  # pyright: ignore
        parameter.placements,  # pyright: ignore
        src_data_rank=None,
    )
