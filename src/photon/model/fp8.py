"""Matrix products in eight-bit floats: the linear layers of a model's blocks, while it trains.

Each factor is scaled so that its largest element is the largest number of its format, by one number
a tensor that is found anew every time (Micikevicius et al. 2022, section 3). Activations and
weights are in e4m3, gradients in e5m2; sums are not, and results are in the precision of autocast.
Without a gradient (validation, scoring) a layer is an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from photon.errors import ConfigError
from photon.model.precision import compute_dtype

PRECISION = "amp_fp8"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ALIGNMENT = 16
"""What the matrix units ask of the summed and the inner dimension of a product."""
LEAST = 1e-30
"""Largest elements below it count as this one, so that no scale is infinite."""


class Scaled(NamedTuple):
    """A matrix in eight bits.

    Attributes:
        values: of the format.
        unit: what a value of 1 stands for: a float32 scalar on the device.
    """

    values: Tensor
    unit: Tensor

    def t(self) -> Scaled:
        return Scaled(self.values.t(), self.unit)


def scaled(x: Tensor, dtype: torch.dtype) -> Scaled:
    """X [M, N] in the eight bits of `dtype`; NaN and infinity make all of it NaN."""
    most = torch.finfo(dtype).max
    largest = x.detach().abs().amax().float().clamp(min=LEAST)
    values = (x.float() * (most / largest)).clamp(-most, most).to(dtype)
    return Scaled(values, largest / most)


def product(a: Scaled, b: Scaled, dtype: torch.dtype, *, fast: bool = False) -> Tensor:
    """A [M, K] times b [N, K] transposed, in `dtype`: both lie along K, as the units read them.

    Args:
        fast: sum in the units' own accumulators, which are shorter than float32 on Hopper.
    """
    left, right = a.values.contiguous(), b.values.contiguous().t()
    return torch._scaled_mm(left, right, a.unit, b.unit, out_dtype=dtype, use_fast_accum=fast)


class _Fp8Product(torch.autograd.Function):
    """x [M, K] times weight [N, K] transposed, and its two gradients."""

    @staticmethod
    def forward(ctx, x, weight, dtype):  # pyright: ignore
        a, b = scaled(x, E4M3), scaled(weight, E4M3)
        ctx.save_for_backward(*a, *b)
        ctx.dtypes = x.dtype, weight.dtype
        return product(a, b, dtype, fast=True)

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore
        x, x_unit, weight, weight_unit = ctx.saved_tensors
        g, dtype = scaled(gradient, E5M2), gradient.dtype
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = product(g, Scaled(weight, weight_unit).t(), dtype).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            of_weight = product(g.t(), Scaled(x, x_unit).t(), dtype).to(ctx.dtypes[1])
        return of_x, of_weight, None


class Fp8Linear(nn.Linear):
    """A linear layer whose three products are in eight bits where a gradient is wanted."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(input)
        dtype = compute_dtype(input)
        y = _Fp8Product.apply(input.flatten(0, -2), self.weight, dtype)
        assert isinstance(y, Tensor)
        if self.bias is not None:
            y = y + self.bias.to(dtype)
        return y.unflatten(0, input.shape[:-1])


def use_fp8(blocks: Iterable[nn.Module]) -> None:
    """Let the linear layers of these blocks multiply in eight bits; parameters stay as they are.

    Raises:
        ConfigError: there are none, or a layer's sizes are not what the matrix units take.
    """
    named = [pair for block in blocks for pair in block.named_modules()]
    layers = [(name, layer) for name, layer in named if type(layer) is nn.Linear]
    if not layers:
        raise ConfigError(
            f"llm_config.precision={PRECISION}: the blocks of this model have no linear layers of "
            "PyTorch's kind; set llm_config.precision=amp_bf16"
        )
    for name, layer in layers:
        if layer.in_features % ALIGNMENT or layer.out_features % ALIGNMENT:
            raise ConfigError(
                f"llm_config.precision={PRECISION}: {name} of a block is {layer.out_features} x "
                f"{layer.in_features}, and both must be multiples of {ALIGNMENT}; change "
                "llm_config.model or set llm_config.precision=amp_bf16"
            )
        layer.__class__ = Fp8Linear  # in place: names, parameters and what shards them stay


def require_fp8(device: torch.device, row_length: int) -> None:
    """Refuse what has no matrix units for eight bits, and rows that they do not take.

    Raises:
        ConfigError: a CPU, or a GPU without them; or a row's length is no multiple of 16.
    """
    if (lack := lack_of_fp8(device)) is not None:
        raise ConfigError(
            f"llm_config.precision={PRECISION} needs a GPU of NVIDIA with matrix units for eight "
            f"bits (compute capability 8.9 or more), and {lack}; set llm_config.precision=amp_bf16"
        )
    if row_length % ALIGNMENT:
        raise ConfigError(
            f"llm_config.precision={PRECISION}: max_seq_len={row_length} must be a multiple of "
            f"{ALIGNMENT}"
        )


def lack_of_fp8(device: torch.device) -> str | None:
    """Why a device cannot; None: it can."""
    if device.type != "cuda":
        return f"the {device.type} is none"
    if torch.version.hip is not None:
        return "this one has eight-bit formats of its own"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= (8, 9) else f"this one has {major}.{minor}"
