"""How many rows a forward pass may take on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.resolve import Run
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
    """Whether `need` bytes fit into `free`, with room to spare: the one rule for all memory."""
    return need <= HEADROOM * free


@dataclass(frozen=True, slots=True)
class Trainers:
    """The processes of this machine that train.

    Attributes:
        workers: 0: this process.
        devices: that train a client together, a process each.
        role: of this machine.
    """

    inner: Inner
    federation: Federation
    workers: int = 0
    devices: int = 1
    role: Role = "run"

    @classmethod
    def of(cls, run: Run, role: Role) -> Trainers:
        machine = run.machine
        return cls(run.inner, run.federation, machine.workers, machine.devices_per_client, role)

    def microbatch(self, device: torch.device) -> int:
        """The rows of a pass: those that fit, where `device_train_microbatch_size=auto`.

        Resolved once and recorded in the run, so that a resumed run adds the same parts in the same
        order. On a CPU by estimate; on a GPU the estimate is where real steps start from.

        Raises:
            ConfigError: the batch does not divide by the processes.
            DeviceError: what does not depend on the rows does not fit.
        """
        inner = self.inner
        if inner.microbatch_rows != "auto":
            return inner.microbatch_rows
        if inner.batch_rows % self.devices:
            raise ConfigError(
                f"llm_config.global_train_batch_size={inner.batch_rows} must be a multiple "
                f"of the {self.devices} processes of the job"
            )
        most = inner.batch_rows // self.devices
        rows = rows_that_fit(
            inner.name, lambda rows: self.memory(device, rows), most, free_memory(device)
        )
        if device.type == "cuda":
            rows = _largest(rows, lambda count: _survives(inner, count, device))
        return rows

    def memory(self, device: torch.device, rows: int) -> int:
        """Bytes of all processes that share a memory: of the GPU, or of this machine.

        Args:
            rows: of a pass; 0: of none.

        Raises:
            ConfigError: layer keys that contradict each other or the model.
        """
        count, one = max(1, self.workers), self.process(rows)
        if device.type == "cuda":
            return count * one.peak("device")
        need = self.devices * count * one.peak("cpu")
        if self.role == "run" and self.workers:
            need += self._server().peak("cpu")
        return need

    def process(self, rows: int) -> Memory:
        """Of a process that trains."""
        if self.role == "centralized":
            memory = centralized_memory(self.inner, self.federation, rows)
        else:
            memory = client_memory(self.inner, self.federation, rows)
            if self.role == "run" and not self.workers:
                memory = in_one_process(memory, self._server())
        sharded = is_sharded(self.inner, self.devices)
        return memory.split_over(self.devices) if sharded else memory

    def _server(self) -> Memory:
        return server_memory(self.inner, self.federation, outer_trees(self.federation))


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
    """Whether a real step, of one pass of `rows` rows, fits on the device with room to spare."""
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
