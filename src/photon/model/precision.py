"""Number formats of forward and backward passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DTYPES = {"amp_bf16": torch.bfloat16, "amp_fp16": torch.float16, "amp_fp8": torch.bfloat16}
"""What autocast multiplies in; the linear layers of `amp_fp8` see to themselves (`fp8.py`)."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Context in which matrix products run in the configured precision; weights stay fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def compute_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of `x` gives here: autocast's type, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
