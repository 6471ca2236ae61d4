"""Which device trains, and with how many threads."""

from __future__ import annotations

import os

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
