"""Which device trains, and with how many threads."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from photon.errors import DeviceError

# Dense TFLOP/s from the vendors' data sheets: of the matrix units in bf16 or fp16 with fp32 sums,
# and of fp32 (not TF32). A name is that of the first entry whose words it all holds.
PEAKS = {
    "B200": (2250.0, 75.0),
    "GB200": (2500.0, 80.0),
    "H200 NVL": (835.0, 60.0),
    "H200": (989.0, 67.0),
    "GH200": (990.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "A10": (125.0, 31.2),
    "A10G": (70.0, 35.0),
    "A40": (149.7, 37.4),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "V100 PCIE": (112.0, 14.0),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
    "RTX 5090": (209.5, 104.8),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
    "MI300X": (1307.4, 163.4),
    "MI325X": (1307.4, 163.4),
}
WITHOUT_BF16 = frozenset({"V100 PCIE", "V100", "T4"})
WITH_FP8 = frozenset(
    {"B200", "GB200", "H200 NVL", "H200", "GH200", "H100 PCIe", "H100 NVL", "H100"}
    | {"L40S", "L40", "L4", "RTX 5090", "RTX 4090"}
)
"""Those that multiply eight-bit floats, twice as many as those of sixteen bits."""
OTHER_CHIPS = frozenset({"Laptop", "Ti", "D", "MIG"})
"""Words that make of a listed name another chip, or a slice of one."""


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU if PyTorch sees one, else the CPU.

    Raises:
        DeviceError: not a device, or not one that is here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("nothing here trains on it")
    except RuntimeError as error:
        raise DeviceError(f"photon.device={name}: not a device; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"photon.device={name}: PyTorch sees {torch.cuda.device_count()} GPUs; use cpu or auto"
        )
    return device


def count_gpus(name: str) -> int:
    """GPUs that `photon.device` allows: all that PyTorch sees, the one that is named, or none.

    Raises:
        DeviceError: as `choose_device`.
    """
    if choose_device(name).type != "cuda":
        return 0
    return 1 if ":" in name else torch.cuda.device_count()


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Floating-point operations a second that a GPU can do at most, by its data sheet.

    Args:
        precision: a value of `llm_config.precision`.

    Returns:
        None on a CPU, and for a GPU or a precision of it that is not in the table.
    """
    if device.type != "cuda":
        return None
    words = set(re.findall(r"\w+", torch.cuda.get_device_name(device)))
    if words & OTHER_CHIPS:
        return None
    name = next((name for name in PEAKS if words.issuperset(name.split())), None)
    return None if name is None else peak_of(name, precision)


def peak_of(name: str, precision: str) -> float | None:
    """The same of an entry of `PEAKS`; None: it has no such arithmetic."""
    half, full = PEAKS[name]
    if precision == "amp_fp8":
        return 2e12 * half if name in WITH_FP8 else None
    if precision == "amp_bf16" and name in WITHOUT_BF16:
        return None
    return 1e12 * (full if precision == "fp32" else half)


def precision_warning(device: torch.device, precision: str) -> str | None:
    """What to tell the user if the precision is emulated here: it costs ten times fp32 and more."""
    if device.type != "cpu" or precision in ("fp32", "amp_fp8"):  # refused, not warned of
        return None
    if "AVX512" in torch.backends.cpu.get_cpu_capability():
        return None
    return (
        f"this CPU has no arithmetic for {precision}, which makes it many times slower than fp32; "
        "set llm_config.precision=fp32"
    )


def spare_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody has; 0 of a CPU, whose memory is that of the machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def training_memory_kept() -> Iterator[None]:
    """Let glibc keep freed blocks for the steps of a segment, and give them all back after it.

    Training allocates the same megabytes at every step; without this each step pays for their page
    faults again (a tenth of the step of a small model on a CPU). What lives longer is allocated
    outside, where blocks are returned one by one: else a round's trees leave holes among it that
    take as much as a third of the process. Elsewhere it does nothing.
    """
    keep_freed_memory()
    try:
        yield
    finally:
        return_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of handing each back to the kernel."""
    _set_malloc_thresholds(1 << 30)


def return_freed_memory() -> None:
    """Let glibc hand each large block back to the kernel when it is freed, and now all that are.

    By default its thresholds grow with the blocks it sees, and the holes of an aggregation (a leaf
    here, a chunk there) stay: half a payload's worth. Elsewhere it does nothing.
    """
    _set_malloc_thresholds(1 << 20)
    _glibc("malloc_trim", 0)


def _set_malloc_thresholds(size: int) -> None:
    for parameter in (-1, -3):  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        _glibc("mallopt", parameter, size)


def _glibc(name: str, *arguments: int) -> None:
    """Call a function of its allocator, where there is one."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
