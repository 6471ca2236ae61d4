"""Tensors on their way from a device to the host, while the device goes on."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

Free = dict[tuple[torch.dtype, int], list[Tensor]]


class Offload:
    """Copies what is on a device, and still written to, into memory of the host.

    On a GPU copies run on a stream of their own, into pinned memory. Buffers are used again: fresh
    memory costs its page faults, which on a CPU is as much as the copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._free: Free = defaultdict(list)
        self._lent: list[Tensor] = []

    def take(self, value: Tensor, live: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """What is on the host once `landed()`, called after this, has been waited for.

        Args:
            live: is written to next; `value` may be it, or share its memory.
            dtype: what it is to be there; None: what it is.
        """
        shares = value.untyped_storage().data_ptr() == live.untyped_storage().data_ptr()
        if self._stream is None:
            return self._buffer(value, dtype).copy_(value) if shares else value
        device = torch.cuda.current_stream(value.device)
        sent = value.to(dtype) if dtype else value
        self._stream.wait_stream(device)
        with torch.cuda.stream(self._stream):
            host = self._buffer(sent, None).copy_(sent, non_blocking=True)
        sent.record_stream(self._stream)
        if sent is value and shares:
            device.wait_stream(self._stream)
        return host

    def landed(self) -> Landing:
        """What has been taken since the last time."""
        event = None if self._stream is None else self._stream.record_event()
        lent, self._lent = self._lent, []
        return Landing(event, lent, self._free)

    def _buffer(self, like: Tensor, dtype: torch.dtype | None) -> Tensor:
        dtype = dtype or like.dtype
        free = self._free[dtype, like.numel()]
        is_pinned = self._stream is not None
        flat = free.pop() if free else torch.empty(like.numel(), dtype=dtype, pin_memory=is_pinned)
        self._lent.append(flat)
        return flat.view(like.shape)


class Landing:
    """Tensors that have been taken."""

    def __init__(
        self, event: torch.cuda.Event | torch.Event | None, buffers: list[Tensor], free: Free
    ) -> None:
        self._event, self._buffers, self._free = event, buffers, free

    def wait(self) -> None:
        """Until they are on the host."""
        if self._event is not None:
            self._event.synchronize()

    def release(self) -> None:
        """They are not read any more: their memory may take others."""
        for flat in self._buffers:
            self._free[flat.dtype, flat.numel()].append(flat)
        self._buffers = []
