"""What Photon does on a GPU, in one command of a few minutes, without a network.

    bash benchmarks/gpu.sh [--out FOLDER] [--seconds 450]
    python benchmarks/gpu.py --device cpu --smoke        the same on a CPU, with tiny models

Training steps of presets against a minimal Transformer that is compiled as a whole and against
Hugging Face's model; rounds of a federation of eight clients against their bare steps; the close of
a round; every codec. One table is printed, and one JSON is written: `gpu-DEVICE.json`. What there
is no time left for is named. Model FLOPs are counted as by `photon.model.flops`, and their share is
of the device's peak in the precision of the row: eight bits have twice the peak of sixteen.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_close
import gpu_rounds
import gpu_steps
import torch

from photon.errors import PhotonError
from photon.machine.device import choose_device, keep_freed_memory
from photon.model.build import empty_model, parameters_of

RESULTS = Path(__file__).parent / "results"
NEEDS = {"steps": 20.0, "rounds": 40.0, "close": 40.0, "codecs": 5.0}
"""Seconds that must be left for a part to be begun."""


@dataclass
class Report:
    """What has been measured so far; the file has it at any time.

    Attributes:
        until: monotonic time after which nothing is begun.
        skipped: what there was no time for.
    """

    path: Path
    until: float
    facts: dict[str, Any]
    parts: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {part: [] for part in NEEDS}
    )
    skipped: list[str] = field(default_factory=list)

    def has_time(self, part: str, name: str) -> bool:
        if time.monotonic() + NEEDS[part] <= self.until:
            return True
        self.skipped.append(f"{part}: {name}")
        return False

    def add(self, part: str, record: dict[str, Any]) -> None:
        self.parts[part].append(record)
        print(LINES[part](record) if "error" not in record else failed(part, record), flush=True)
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.facts, **self.parts, "skipped": self.skipped}, indent=1)
        self.path.write_text(text + "\n")


def facts_of(device: torch.device, smoke: bool) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "smoke": smoke,
    }


# Parts, the most telling ones first


def run(report: Report, device: torch.device, smoke: bool) -> None:
    first, then = gpu_steps.cells(device)
    steps(report, first, device, smoke)
    rounds(report, device, smoke)
    close(report, device, smoke)
    steps(report, then, device, smoke)
    report.save()


def steps(report: Report, cells: list[gpu_steps.Cell], device: torch.device, smoke: bool) -> None:
    for cell in cells:
        if report.has_time("steps", cell.name):
            count = 2 if smoke else gpu_steps.STEPS
            report.add("steps", gpu_steps.measure(cell, device, smoke, count))


def rounds(report: Report, device: torch.device, smoke: bool) -> None:
    found = [one for one in report.parts["steps"] if one["preset"] == gpu_rounds.PRESET
             and one["arm"] == "photon" and "error" not in one]  # fmt: skip
    step = found[0]["step_seconds"] if found else None
    with tempfile.TemporaryDirectory() as home:
        rows = gpu_rounds.data(Path(home, "data"), smoke)
        for case in gpu_rounds.cases(smoke):
            if report.has_time("rounds", case.name):
                report.add("rounds", attempted(case.name, lambda: gpu_rounds.measure(
                    case, Path(home, "runs"), rows, device, smoke, step  # noqa: B023
                )))  # fmt: skip


def attempted(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part that fails does not take the others with it."""
    try:
        return measure()
    except (PhotonError, torch.OutOfMemoryError) as error:
        return {"name": name, "error": str(error).splitlines()[0]}


def close(report: Report, device: torch.device, smoke: bool) -> None:
    clients, parameters = (2, 60_000) if smoke else (8, 125_000_000)
    if report.has_time("close", f"{parameters} parameters, {clients} clients"):
        for record in gpu_close.closes(parameters, clients, device):
            report.add("close", record)
    if report.has_time("codecs", "all"):
        cell = gpu_steps.Cell(gpu_rounds.PRESET)
        like = parameters_of(empty_model(gpu_steps.inner_of(cell, device, smoke)))
        for record in gpu_close.codecs(like, device):
            report.add("codecs", record)


# The table


def row(*cells: object) -> str:
    return "| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |"


def share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def failed(part: str, record: dict[str, Any]) -> str:
    named = [str(record[key]) for key in ("preset", "arm", "compile", "precision", "name", "where")
             if key in record]  # fmt: skip
    return row(part, " ".join(named), f"failed: {record['error']}", None, None)


def step_line(r: dict[str, Any]) -> str:
    what = f"{r['preset']} {r['arm']}, {r['compile']}, {r['precision']}, {r['rows']} rows"
    return row("step", what, f"{r['tokens_per_second']:,.0f} tokens/s", f"MFU {share(r['mfu'])}",
               f"{1e3 * r['step_seconds']:.1f} ms")  # fmt: skip


def round_line(r: dict[str, Any]) -> str:
    what = f"{r['preset']} x {r['clients']}, {r['moments']} moments, {r['local_steps']} steps"
    busy = f"busy {share(r['busy_by_step'])} by bare steps, {share(r['device_busy'])} by the run"
    return row("round", what, f"{r['tokens_per_second']:,.0f} tokens/s", busy,
               f"{r['round_seconds']:.2f} s")  # fmt: skip


def close_line(r: dict[str, Any]) -> str:
    speed = f"{r['gigabytes_per_second']:.1f} GB/s"
    ratio = f"{r['ratio']:.2f} of reading and writing once"
    return row("close", f"{r['clients']} clients on {r['where']}", speed, ratio,
               f"{r['seconds']:.2f} s")  # fmt: skip


def codec_line(r: dict[str, Any]) -> str:
    encoded = f"encode {r['encode_gigabytes_per_second']:.1f} GB/s"
    decoded = f"decode {r['decode_gigabytes_per_second']:.1f} GB/s"
    return row("codec", f"{r['codec']} on {r['where']}", encoded, decoded,
               f"{r['sent_bytes'] / 1e6:.0f} MB sent")  # fmt: skip


LINES = {"steps": step_line, "rounds": round_line, "close": close_line, "codecs": codec_line}


def file_name(device: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> gpu-h100-80gb-hbm3.json."""
    words = re.findall(r"[a-z0-9]+", device.lower().replace("nvidia", ""))
    return f"gpu-{'-'.join(words)}.json"


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--smoke", action="store_true", help="tiny models, nothing compiled")
    parser.add_argument("--seconds", type=float, default=450.0, help="after which nothing is begun")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    return parser.parse_args(given)


def header(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['device']}, torch {facts['torch']}"
    yield row("part", "what", "speed", "share", "time")
    yield "|---" * 5 + "|"


def as_it_is(function: Callable, **_: Any) -> Callable:
    """In place of `torch.compile`: tiny models step at once."""
    return function


def main(given: list[str] | None = None) -> None:
    asked = arguments(given)
    device = choose_device(asked.device)
    facts = facts_of(device, asked.smoke)
    report = Report(asked.out / file_name(facts["device"]), time.monotonic() + asked.seconds, facts)
    print("\n".join(header(facts)), flush=True)
    keep_freed_memory()
    with mock.patch.object(torch, "compile", as_it_is) if asked.smoke else nullcontext():
        run(report, device, asked.smoke)
    for name in report.skipped:
        print(f"no time left for {name}")
    print(f"written to {report.path}")


if __name__ == "__main__":
    main()
