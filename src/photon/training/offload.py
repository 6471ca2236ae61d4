"""Tensors on their way from a device to the host, while the device goes on."""

from __future__ import annotations

import torch
from torch import Tensor

Landing = torch.cuda.Event | torch.Event | None
"""Marks when copies are on the host; None: they are."""


class Offload:
    """Copies tensors into pinned memory on a stream of their own.

    On a CPU a tensor is where it has to be, and only what is still written to is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, value: Tensor, live: Tensor) -> Tensor:
        """What is on the host once `landed()`, called after this, has been waited for.

        Args:
            live: is written to next; `value` may be it, or share its memory.
        """
        shares = value.untyped_storage().data_ptr() == live.untyped_storage().data_ptr()
        if self._stream is None:
            return value.clone() if shares else value
        device = torch.cuda.current_stream(value.device)
        self._stream.wait_stream(device)
        with torch.cuda.stream(self._stream):
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            host.copy_(value, non_blocking=True)
        value.record_stream(self._stream)
        if shares:
            device.wait_stream(self._stream)
        return host

    def landed(self) -> Landing:
        """What marks the end of all copies so far."""
        return None if self._stream is None else self._stream.record_event()
