"""Which device trains, and with how many threads."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from photon.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if PyTorch sees one, else the CPU.

    Raises:
        DeviceError: not a device, or not one that is here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"photon.device={name}: not a device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"photon.device={name}: PyTorch sees {torch.cuda.device_count()} GPUs; use cpu or auto"
        )
    return device


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of handing each back to the kernel.

    Training allocates the same megabytes at every step; without this each step pays for their page
    faults again (a tenth of the step of a small model on a CPU). Elsewhere it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        mallopt(m_trim_threshold, 1 << 30)
        mallopt(m_mmap_threshold, 1 << 30)
