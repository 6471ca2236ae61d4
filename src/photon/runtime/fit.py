"""How many rows a forward pass may take on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from photon.config.llm import LlmConfig
from photon.config.resolve import replace_keys
from photon.config.schema import Config
from photon.errors import ConfigError, DeviceError
from photon.model.flops import model_cost, training_memory
from photon.training.gradient import accumulate_gradient
from photon.training.loop import Trainer

HEADROOM = 0.8
"""Share of the free memory that an estimate may fill."""


def with_microbatch(config: Config, device: torch.device, processes: int = 1) -> Config:
    """Put the rows that fit in the place of `device_train_microbatch_size=auto`.

    Resolved once and recorded in the run, so that a resumed run adds the same parts in the same
    order. On a CPU by estimate; on a GPU the estimate is where real steps start from.

    Args:
        config: resolved otherwise.
        processes: that share the batch (devices), or this machine's memory (workers on a CPU).

    Raises:
        ConfigError: the batch does not divide by the processes.
        DeviceError: weights, gradients and moments alone do not fit.
    """
    llm = config.llm_config
    if llm.device_train_microbatch_size != "auto":
        return config
    if llm.global_train_batch_size % processes:
        raise ConfigError(
            f"llm_config.global_train_batch_size={llm.global_train_batch_size} must be a multiple "
            f"of the {processes} processes of the job"
        )
    most = llm.global_train_batch_size // processes
    sharing = processes if device.type != "cuda" else 1
    rows = rows_that_fit(llm, most, free_memory(device) // (sharing * max(1, workers_of(config))))
    if device.type == "cuda":
        rows = _largest(rows, lambda count: _survives(llm, count, device))
    return replace_keys(config, {"llm_config.device_train_microbatch_size": rows})


def workers_of(config: Config) -> int:
    workers = config.photon.workers
    assert isinstance(workers, int)  # resolved
    return workers


def rows_that_fit(llm: LlmConfig, most: int, free: int) -> int:
    """Largest of most, most / 2, ... 1 whose estimate fills at most `HEADROOM` of `free` bytes.

    Raises:
        DeviceError: weights, gradients and moments alone are more than `free`.
    """
    cost = model_cost(llm)
    fixed = training_memory(llm, 0, cost).total
    if fixed > free:
        raise DeviceError(
            f"{llm.name}: weights, gradients and moments take {fixed / 1e9:.1f} GB, but "
            f"{free / 1e9:.1f} GB are free for them; take a smaller model, fewer photon.workers or "
            "more devices"
        )
    return _largest(
        most, lambda rows: training_memory(llm, rows, cost).total <= HEADROOM * free, least=1
    )


def _largest(most: int, fits: Callable[[int], bool], least: int = 0) -> int:
    """Halve `most` until it fits; `least` is taken untried."""
    rows = most
    while rows > max(1, least) and not fits(rows):
        rows = -(-rows // 2)
    return rows


def _survives(llm: LlmConfig, rows: int, device: torch.device) -> bool:
    """Whether a real step with so many rows in one pass fits on the device, with room to spare."""
    free = free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer = Trainer(llm.model_copy(update={"compile": False}), 0, device)
        tokens = torch.zeros(rows, llm.max_seq_len + 1, dtype=torch.int64, device=device)
        accumulate_gradient(trainer.parallel, tokens, microbatch=rows, precision=llm.precision)
        trainer.optimizer.step(llm.optimizer.lr)
        return torch.cuda.max_memory_allocated(device) < HEADROOM * free
    except DeviceError:
        return False
    finally:
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int:
    """Bytes that training may take: of the GPU, or of this machine and its control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = _available() or 1 << 40
    return min(free, _group_limit() or free)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
    return int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None


def _group_limit() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return int(text) - used if text.isdigit() else None
