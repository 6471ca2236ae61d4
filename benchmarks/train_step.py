"""Speed of a training step, side by side in one process.

    python benchmarks/train_step.py cpu              ours against its peers on this CPU
    python benchmarks/train_step.py cpu --profile    and where our step's time goes
    python benchmarks/train_step.py cuda             presets on a GPU: tokens/s, utilisation, memory
    python benchmarks/train_step.py cuda --models mpt-125m llm_config.optimizer.name=adamw

On a CPU the measure is process CPU time, which other work on the machine disturbs less than the
clock. Two arms alternate and their order turns round with every pair; a pair gives one ratio. "Of
the best" is the ratio of the least times, which says more where the machine is busy. All arms share
a process, and with it the allocator settings that `photon train` makes, except where each runs in
its own, as its users run it. With --save every line goes to benchmarks/results/train_step.jsonl
too. Needs the extra `bench`.
"""

from __future__ import annotations

import gc
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import click
import torch
from own_process import in_own_process
from records import RESULTS, append
from training_arms import (
    FAMILIES,
    LARGE,
    SMALL,
    Arm,
    InMemoryRows,
    Seconds,
    Size,
    bare_loop,
    hugging_face_trainer,
    minimal_model,
    our_model,
    our_step,
    trainer_on,
)

from photon.config import load_config
from photon.config.llm import Inner
from photon.config.resolve import resolve
from photon.errors import DeviceError
from photon.machine.device import choose_device, keep_freed_memory, num_cores, peak_flops
from photon.model.flops import model_cost

LOG = RESULTS / "train_step.jsonl"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Comparison:
    """One peer of ours.

    Attributes:
        bar: the least median of its CPU time over ours, by size.
        turns: how many times the size's steps are run at a time; more, where the first ones of a
            new `Trainer` are slower than those of a long run.
    """

    name: str
    ours: Callable[[str, Size], Arm]
    peer: Callable[[str, Size], Arm]
    bar: dict[str, float]
    turns: int = 1


COMPARISONS = (
    Comparison("control: our step again", our_step, our_step, {}),
    Comparison("bare loop, same module", our_step, bare_loop, {"small": 0.95, "large": 0.95}),
    Comparison(
        "Hugging Face Trainer, each in its own process",
        in_own_process(our_step, as_photon=True),
        in_own_process(hugging_face_trainer),
        {"large": 1.15},
        turns=5,
    ),
    Comparison("Hugging Face Trainer, with our allocator", our_step, hugging_face_trainer, {}),
    Comparison("minimal model", our_model, minimal_model, {"small": 0.95, "large": 0.95}),
)


def compare(comparison: Comparison, family: str, size: Size, pairs: int) -> dict:
    """Alternate the two arms; the first pair is not counted."""
    arms = comparison.ours(family, size), comparison.peer(family, size)
    costs: list[list[Seconds]] = []
    steps = size.steps * comparison.turns
    for pair in range(pairs + 1):
        order = (0, 1) if pair % 2 else (1, 0)
        taken = {which: arms[which](steps) for which in order}
        costs.append([taken[0], taken[1]])
    return {
        "peer": comparison.name,
        "family": family,
        "size": size.name,
        "bar": comparison.bar.get(size.name),
        **summary(costs[1:], size.tokens, steps),
    }


def summary(costs: list[list[Seconds]], tokens: int, steps: int) -> dict:
    ratios = [peer.cpu / ours.cpu for ours, peer in costs]
    out = {"pairs": len(costs), "ratio": statistics.median(ratios)}
    out |= {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    best = [min(pair[number].cpu for pair in costs) for number in (0, 1)]
    out["ratio_of_best"] = best[1] / best[0]
    for number, who in enumerate(("our", "peer")):
        cpu = statistics.median(pair[number].cpu for pair in costs) / steps
        wall = statistics.median(pair[number].wall for pair in costs) / steps
        out |= {f"{who}_cpu_ms": 1e3 * cpu, f"{who}_tokens_per_second": tokens / wall}
    return {key: round(value, 3) for key, value in out.items()}


HEADER = (
    "| peer | family | size | peer / ours: median (min .. max) | of the best | bar | "
    "our CPU ms/step | peer CPU ms/step | our tok/s | peer tok/s |\n" + "|---" * 10 + "|"
)


def table_row(r: dict) -> str:
    bar = "-" if r["bar"] is None else f"{r['bar']} {'met' if r['ratio'] >= r['bar'] else 'MISSED'}"
    return (
        f"| {r['peer']} | {r['family']} | {r['size']} | "
        f"{r['ratio']:.3f} ({r['ratio_min']:.3f} .. {r['ratio_max']:.3f}) | "
        f"{r['ratio_of_best']:.3f} | {bar} | {r['our_cpu_ms']:.1f} | {r['peer_cpu_ms']:.1f} | "
        f"{r['our_tokens_per_second']:,.0f} | {r['peer_tokens_per_second']:,.0f} |"
    )


def preset(
    name: str, microbatch: int, batch: int, device: torch.device, overrides: tuple[str, ...]
) -> Inner:
    config = load_config(
        [
            f"llm_config={name}",
            "llm_config.precision=amp_bf16",
            "llm_config.fsdp_config.activation_checkpointing=false",
            f"llm_config.global_train_batch_size={batch}",
            f"llm_config.device_train_microbatch_size={microbatch}",
            *overrides,
        ]
    )
    on_gpu = device.type == "cuda"
    return resolve(config, cores=1, accelerator=on_gpu, run_uuid="bench").inner


def run_preset(
    name: str, microbatch: int, device: torch.device, overrides: tuple[str, ...], profiled: bool
) -> dict:
    """Four microbatches a step; out of memory is a result too."""
    inner = preset(name, microbatch, 4 * microbatch, device, overrides)
    record = {"model": name, "length": inner.row_length, "microbatch": microbatch}
    rows = InMemoryRows(inner.batch_rows, inner.row_length, inner.model.vocab_size)
    try:
        trainer, stream = trainer_on(inner, rows, device)
        trainer.train(stream, 3)  # compiles
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = Seconds.now()
        segment = trainer.train(stream, 5)
        seconds = Seconds.now().since(before).wall
    except (DeviceError, torch.OutOfMemoryError) as error:
        return record | {"error": str(error).splitlines()[0]}
    if profiled:
        record["profile"] = profile(lambda: trainer.train(stream, 1), device)
    return record | speed(inner, segment.num_tokens / seconds, device)


def speed(inner: Inner, tokens_per_second: float, device: torch.device) -> dict:
    peak = peak_flops(device, inner.precision)
    share = model_cost(inner).flops_per_token * tokens_per_second / peak if peak else None
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {
        "tokens_per_second": round(tokens_per_second),
        "utilisation": share and round(share, 4),
        "peak_gb": memory and round(memory, 2),
    }


def profile(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the time of the operations (kernels, on a GPU) that take most of it."""
    on_gpu = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if on_gpu else []
    with torch.profiler.profile(activities=kinds) as profiler:
        step()
    kind = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {
        event.key: getattr(event, field)
        for event in profiler.key_averages()
        if event.device_type == kind and not event.is_user_annotation
    }
    total = sum(times.values())
    top = sorted(times, key=times.__getitem__, reverse=True)[:15]
    return {key[:80]: round(times[key] / total, 4) for key in top}


@click.group(help=__doc__, context_settings={"max_content_width": 100})
def main() -> None:
    keep_freed_memory()


@main.command()
@click.option("--pairs", default=9, show_default=True)
@click.option("--threads", type=int, default=num_cores, help="Default: one a core.")
@click.option("--quick", is_flag=True, help="Three pairs at the small size.")
@click.option("--only", default="", help="Comparisons whose name holds this text.")
@click.option("--profile", "profiled", is_flag=True, help="Also: operations of our step.")
@click.option("--save", "saved", is_flag=True)
def cpu(pairs: int, threads: int, quick: bool, only: str, profiled: bool, saved: bool) -> None:
    """Our step and our model against their peers."""
    chosen = [one for one in COMPARISONS if only.lower() in one.name.lower()]
    if not chosen:
        names = "; ".join(one.name for one in COMPARISONS)
        raise click.BadParameter(f"no comparison is named {only!r}; there are: {names}")
    pairs = 3 if quick else pairs
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {num_cores()} CPU cores, {threads} threads, {pairs} pairs")
    print(HEADER)
    for size in (SMALL,) if quick else (LARGE, SMALL):
        for family in FAMILIES:
            for comparison in chosen:
                record = compare(comparison, family, size, pairs)
                print(table_row(record), flush=True)
                if saved:
                    append(LOG, record | {"torch": torch.__version__, "threads": threads})
            if profiled:
                shares = profile(partial(our_step(family, size), size.steps), CPU)
                print(family, size.name, json.dumps(shares))
                if saved:
                    append(LOG, {"profile": shares, "family": family, "size": size.name})


@main.command()
@click.option("--models", default="mpt-125m,llama-125m,mpt-1b,llama-1b", show_default=True)
@click.option("--microbatches", default="1,2,4,8,16,32", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Also: kernels of a step.")
@click.option("--device", default="cuda:0", hidden=True)
@click.option("--save", "saved", is_flag=True)
@click.argument("overrides", nargs=-1)
def cuda(
    models: str, microbatches: str, profiled: bool, device: str, saved: bool, overrides: tuple
) -> None:
    """Presets in bf16, compiled; OVERRIDES change their keys."""
    where = choose_device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    for model in models.split(","):
        for microbatch in map(int, microbatches.split(",")):
            record = run_preset(model, microbatch, where, overrides, profiled)
            record |= {"device": name, "torch": torch.__version__, "overrides": overrides}
            print(json.dumps(record), flush=True)
            if saved:
                append(LOG, record)
            free_memory(where)
            if "error" in record:
                break


def free_memory(device: torch.device) -> None:
    """Compiled code and cached memory of one model must not weigh on the next."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
