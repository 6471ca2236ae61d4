"""How many rows a forward pass may take on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from photon.config.llm import Inner
from photon.config.resolve import replace_keys
from photon.config.schema import Config
from photon.errors import ConfigError, DeviceError
from photon.run.outer import outer_trees
from photon.training.gradient import accumulate_gradient
from photon.training.loop import Trainer
from photon.training.memory import (
    Memory,
    centralized_memory,
    client_memory,
    in_one_process,
    server_memory,
)
from photon.training.parallel import is_sharded

HEADROOM = 0.8
"""Share of a memory that an estimate, or a step that is tried, may fill."""

Role = Literal["run", "node", "centralized"]
"""Of this machine: all of a federation, clients of a server elsewhere, or no federation."""


def fits(need: float, free: float) -> bool:
    """Whether so many bytes fit, with room to spare: the one rule wherever memory is compared."""
    return need <= HEADROOM * free


def with_microbatch(
    config: Config, device: torch.device, processes: int = 1, role: Role = "run"
) -> Config:
    """Put the rows that fit in the place of `device_train_microbatch_size=auto`.

    Resolved once and recorded in the run, so that a resumed run adds the same parts in the same
    order. On a CPU by estimate; on a GPU the estimate is where real steps start from.

    Args:
        config: resolved otherwise.
        processes: devices that share the batch.
        role: of this machine.

    Raises:
        ConfigError: the batch does not divide by the processes.
        DeviceError: what does not depend on the rows does not fit.
    """
    inner = config.inner
    if inner.microbatch_rows != "auto":
        return config
    if inner.batch_rows % processes:
        raise ConfigError(
            f"llm_config.global_train_batch_size={inner.batch_rows} must be a multiple "
            f"of the {processes} processes of the job"
        )
    most = inner.batch_rows // processes
    rows = rows_that_fit(
        inner.name,
        lambda count: memory_needed(config, device, count, processes, role),
        most,
        free_memory(device),
    )
    if device.type == "cuda":
        rows = _largest(rows, lambda count: _survives(inner, count, device))
    return replace_keys(config, {"llm_config.device_train_microbatch_size": rows})


def memory_needed(
    config: Config, device: torch.device, rows: int, processes: int, role: Role
) -> int:
    """Bytes of all processes that share a memory: of the GPU, or of this machine.

    Args:
        config: resolved, but for the rows of a pass.
        rows: of a pass; 0: of none.
        processes: devices that train a client together.

    Raises:
        ConfigError: layer keys that contradict each other or the model.
    """
    workers, one = workers_of(config), process_memory(config, rows, processes, role)
    if device.type == "cuda":
        return max(1, workers) * one.peak("device")
    need = processes * max(1, workers) * one.peak("cpu")
    if role == "run" and workers:
        need += server_memory(config, outer_trees(config)).peak("cpu")
    return need


def process_memory(config: Config, rows: int, processes: int = 1, role: Role = "run") -> Memory:
    """Of a process that trains on this machine."""
    if role == "centralized":
        memory = centralized_memory(config, rows)
    else:
        memory = client_memory(config, rows)
        if role == "run" and not workers_of(config):
            memory = in_one_process(memory, server_memory(config, outer_trees(config)))
    return memory.split_over(processes) if is_sharded(config.inner, processes) else memory


def workers_of(config: Config) -> int:
    workers = config.machine.workers
    assert isinstance(workers, int)  # resolved
    return workers


def rows_that_fit(name: str, need: Callable[[int], int], most: int, free: int) -> int:
    """Largest of most, most / 2, ... 1 whose need fits; one row is tried whatever it needs.

    Args:
        name: of the model, for the message.
        need: bytes, by rows of a pass.
        free: bytes.

    Raises:
        DeviceError: what does not depend on the rows does not fit.
    """
    fixed = need(0)
    if not fits(fixed, free):
        raise DeviceError(
            f"{name}: training takes {fixed / 1e9:.1f} GB whatever the rows of a pass, but "
            f"{free / 1e9:.1f} GB are free for it, of which {HEADROOM:.0%} may be filled; take a "
            "smaller model, fewer photon.workers or more devices"
        )
    return _largest(most, lambda rows: fits(need(rows), free), least=1)


def _largest(most: int, fits: Callable[[int], bool], least: int = 0) -> int:
    """Halve `most` until it fits; `least` is taken untried."""
    rows = most
    while rows > max(1, least) and not fits(rows):
        rows = -(-rows // 2)
    return rows


def _survives(inner: Inner, rows: int, device: torch.device) -> bool:
    """Whether a real step with so many rows in one pass fits on the device, with room to spare."""
    free = free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trainer = Trainer(inner.model_copy(update={"compile": False}), 0, device)
        tokens = torch.zeros(rows, inner.row_length + 1, dtype=torch.int64, device=device)
        accumulate_gradient(trainer.parallel, tokens, microbatch=rows, precision=inner.precision)
        trainer.optimizer.step(inner.optimizer.lr)
        return fits(torch.cuda.max_memory_allocated(device), free)
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
