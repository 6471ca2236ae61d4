"""Training steps of presets on one device, and of their peers: what `gpu.py` measures first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_step import free_memory, preset
from training_arms import (
    THRESHOLD,
    InMemoryRows,
    Size,
    adamw,
    hugging_face_model,
    minimal_of,
    trainer_on,
)

from photon.config.llm import Inner
from photon.errors import DeviceError
from photon.machine.device import peak_flops
from photon.model.flops import embedding_names, model_cost
from photon.model.fp8 import lack_of_fp8
from photon.model.precision import autocast

ROWS = {"mpt-125m": 8, "llama-125m": 8, "mpt-1b": 4, "llama-1b": 4}
"""Preset -> rows of 2048 tokens a step, in one pass without recomputing: they fit 80 GB."""
TINY = (
    "max_seq_len=32", "model.d_model=32", "model.n_heads=2", "model.n_layers=1",
    "model.vocab_size=320",
)  # fmt: skip
"""Keys of `llm_config` that make of each preset one that any machine steps at once."""
WARM_UP, STEPS = 3, 12


@dataclass(frozen=True)
class Cell:
    """A step that is measured.

    Attributes:
        arm: `photon`, `minimal` (compiled whole) or `transformers` (as it comes).
        compile: of ours: `block`, or `whole`.
    """

    preset: str
    arm: str = "photon"
    compile: str = "block"
    precision: str = "amp_bf16"

    @property
    def name(self) -> str:
        return " ".join(asdict(self).values())


def cells(device: torch.device) -> tuple[list[Cell], list[Cell]]:
    """What is measured in any case, and what for as long as there is time."""
    first = [
        make(name)
        for name in ROWS
        for make in (Cell, partial(Cell, arm="minimal", compile="whole"))
    ]
    more = [(Cell, {"compile": "whole"}), (Cell, {"arm": "transformers", "compile": "none"})]
    if lack_of_fp8(device) is None:
        more += [(Cell, {"compile": how, "precision": "amp_fp8"}) for how in ("block", "whole")]
    then = [make(name, **options) for make, options in more for name in ROWS]
    return first, then


def inner_of(cell: Cell, device: torch.device, smoke: bool) -> Inner:
    keys = [f"llm_config.{key}" for key in TINY if smoke]
    if smoke and cell.preset == "llama-1b":
        keys.append("llm_config.model.attn_config.kv_n_heads=1")
    elif smoke and cell.preset.startswith("llama"):
        keys.append("llm_config.model.attn_config.kv_n_heads=2")
    how = {"block": "true", "whole": "whole"}.get(cell.compile, "false")
    keys += [f"llm_config.precision={cell.precision}", f"llm_config.compile={how}"]
    rows = 2 if smoke else ROWS[cell.preset]
    return preset(cell.preset, rows, rows, device, tuple(keys))


def measure(cell: Cell, device: torch.device, smoke: bool, steps: int = STEPS) -> dict[str, Any]:
    """Tokens a second, and the share of the device's peak; an error is a result too."""
    inner = inner_of(cell, device, smoke)
    record = {**asdict(cell), "rows": inner.batch_rows, "length": inner.row_length}
    try:
        run, flops = ARMS[cell.arm](inner, device)
        run(1 if smoke else WARM_UP)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = timed(lambda: run(steps), device)
    except (DeviceError, torch.OutOfMemoryError) as error:
        return record | {"error": str(error).splitlines()[0]}
    finally:
        free_memory(device)
    return record | figures(inner, steps, seconds, flops, device)


def figures(
    inner: Inner, steps: int, seconds: float, flops: int, device: torch.device
) -> dict[str, Any]:
    """Numbers of so many steps, whose tokens take `flops` each."""
    tokens, peak = steps * inner.tokens_per_step, peak_flops(device, inner.precision)
    on_gpu = device.type == "cuda"
    return {
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
        "step_seconds": seconds / steps,
        "tokens_per_second": tokens / seconds,
        "flops_per_token": flops,
        "mfu": flops * tokens / seconds / peak if peak else None,
        "peak_gigabytes": torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
    }


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device is done."""
    synchronize(device)
    begun = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - begun


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Arms: what takes so many steps, and the arithmetic of a token

Arm = tuple[Callable[[int], object], int]


def ours(inner: Inner, device: torch.device) -> Arm:
    rows = InMemoryRows(inner.batch_rows, inner.row_length, inner.model.vocab_size)
    trainer, stream = trainer_on(inner, rows, device)
    return lambda steps: trainer.train(stream, steps), model_cost(inner).flops_per_token


def minimal(inner: Inner, device: torch.device) -> Arm:
    """A Transformer of the same shape without grouped queries, and its loss, as one graph."""
    model = minimal_of(family_of(inner), size_of(inner)).to(device)
    loss = torch.compile(lambda x, y: mean_loss(model(x), y))
    return peer(model, loss, inner, device)


def transformers(inner: Inner, device: torch.device) -> Arm:
    model = hugging_face_model(family_of(inner), size_of(inner)).to(device)
    return peer(model, lambda x, y: mean_loss(model(input_ids=x).logits, y), inner, device)


ARMS: dict[str, Callable[[Inner, torch.device], Arm]] = {
    "photon": ours, "minimal": minimal, "transformers": transformers,
}  # fmt: skip


def peer(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inner: Inner, device: torch.device
) -> Arm:
    """A loop as one writes it by hand: autocast, clipping, fused AdamW."""
    optimizer, batches = adamw(model), rows_on(inner, device)

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = next(batches)
            with autocast(inner.precision, device):
                value = loss(rows[:, :-1], rows[:, 1:])
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), THRESHOLD)
            optimizer.step()
            optimizer.zero_grad()

    return run, flops_of(model, inner)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def rows_on(inner: Inner, device: torch.device) -> Iterator[Tensor]:
    made = InMemoryRows(inner.batch_rows, inner.row_length, inner.model.vocab_size)
    rows = torch.from_numpy(made.tokens).to(device)
    while True:
        yield rows


def family_of(inner: Inner) -> str:
    return "mpt" if inner.model.is_mpt else "llama"


def size_of(inner: Inner) -> Size:
    c = inner.model
    return Size(inner.name, c.n_layers, c.d_model, c.n_heads, c.ffn_width, c.vocab_size,
                inner.row_length, inner.batch_rows, STEPS)  # fmt: skip


def flops_of(model: nn.Module, inner: Inner) -> int:
    """As `photon.model.flops.model_cost` counts them, of another model of the same widths."""
    tables, c = embedding_names(model), inner.model
    matrices = sum(
        p.numel() for n, p in model.named_parameters() if p.dim() >= 2 and n not in tables
    )
    attention = 12 * c.n_layers * c.d_model * inner.row_length
    return 6 * (matrices + c.vocab_size * c.d_model) + attention
