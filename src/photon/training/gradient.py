"""The gradient of one optimizer step: microbatches, exact averaging, clipping."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from photon.errors import DeviceError
from photon.model.precision import autocast
from photon.model.sharding import full_tensor
from photon.training.parallel import ParallelModel


def accumulate_gradient(
    parallel: ParallelModel,
    rows: Tensor,
    *,
    microbatch: int,
    scale: float = 1.0,
    precision: str = "fp32",
) -> Tensor:
    """Set the gradient of the mean token loss, microbatch by microbatch.

    Every token has the same weight, so the result does not depend on the microbatch, nor on the
    number of processes, beyond rounding.

    Args:
        rows: this process's, [B, L + 1], int64, on the model's device.
        microbatch: rows of one forward pass.
        scale: factor on the gradient (fp16).

    Returns:
        Summed cross-entropy of `rows` in nats, float64, on the device.

    Raises:
        DeviceError: out of memory.
    """
    tokens = rows.shape[0] * (rows.shape[1] - 1)  # of each process alike: gradients are averaged
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for parameter in parallel.model.parameters():
        parameter.grad = None
    parts = rows.split(microbatch)
    try:
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else parallel.defer():
                with autocast(precision, rows.device):
                    loss = parallel.call(part[:, :-1], part[:, 1:])
                (loss.objective * (scale / tokens)).backward()
            total += loss.cross_entropy
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(microbatch, rows.shape[1] - 1) from error
    return total


def _out_of_memory(rows: int, length: int) -> DeviceError:
    advice = (
        "lower llm_config.device_train_microbatch_size"
        if rows > 1
        else "set llm_config.fsdp_config.activation_checkpointing=true, shorten "
        "llm_config.max_seq_len, or take a smaller model or more devices"
    )
    return DeviceError(
        f"out of memory with {rows} rows of {length} tokens in one forward pass; {advice}"
    )


@torch.no_grad()
def unscale_and_clip(model: nn.Module, scale: float, threshold: float | None) -> Tensor:
    """Divide the gradient by `scale` and shorten it to `threshold`.

    Returns:
        Its norm before clipping, over all processes.
    """
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if scale != 1.0:
        torch._foreach_mul_(gradients, 1.0 / scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    if threshold is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), threshold, norm)
    return full_tensor(norm)
