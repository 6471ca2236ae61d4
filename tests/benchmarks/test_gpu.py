"""The benchmark for GPUs: its twin on a CPU, of tiny models, and the script around it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from photon.model.build import build_model
from photon.model.flops import model_cost

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")
PARTS = ("steps", "rounds", "close", "codecs")


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture(name="report", scope="module")
def _report(tmp_path_factory):
    """Of the smallest run, in a process of its own, and what it printed."""
    out = tmp_path_factory.mktemp("gpu")
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--device", "cpu", "--smoke", f"--out={out}"]
    done = subprocess.run(
        command,
        env={**os.environ, "PHOTON_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "gpu-cpu.json").read_text()), done.stdout


def test_every_part_is_measured_and_printed(report, bench):
    found, printed = report
    first, then = bench("gpu_steps").cells(CPU)
    names = ("preset", "arm", "compile", "precision")
    measured = [tuple(one[name] for name in names) for one in found["steps"]]
    assert measured == [tuple(getattr(cell, name) for name in names) for cell in [*first, *then]]
    assert {one["moments"] for one in found["rounds"]} == {"averaged", "reset"}
    assert [one["where"] for one in found["close"]] == ["cpu"]
    assert [one["codec"] for one in found["codecs"]] == list(bench("photon.points").CODECS)
    assert found["skipped"] == []
    assert found["device"] == "CPU"
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + sum(len(found[part]) for part in PARTS)


def test_the_figures_agree_with_each_other(report):
    found, _ = report
    for one in found["steps"]:
        assert one["tokens"] == one["steps"] * one["rows"] * one["length"]
        assert one["tokens_per_second"] * one["seconds"] == pytest.approx(one["tokens"])
        assert one["step_seconds"] * one["steps"] == pytest.approx(one["seconds"])
        assert one["mfu"] is None
    bare = found["steps"][0]["step_seconds"]
    for one in found["rounds"]:
        assert one["tokens"] == one["clients"] * one["local_steps"] * 2 * 32
        assert one["tokens_per_second"] * one["round_seconds"] == pytest.approx(one["tokens"])
        assert one["step_seconds"] == bare
        steps = one["clients"] * one["local_steps"] * bare
        assert one["busy_by_step"] == pytest.approx(steps / one["round_seconds"])
        assert 0 < one["training_seconds"] <= one["round_seconds"] * 1.01
    for one in found["close"]:
        assert one["gigabytes_per_second"] * one["seconds"] == pytest.approx(one["bytes"] / 1e9)
        assert one["ratio"] == pytest.approx(one["seconds"] / one["plain_seconds"])
    for one in found["codecs"]:
        assert one["encode_gigabytes_per_second"] * one["encode_seconds"] == pytest.approx(
            one["bytes"] / 1e9
        )
    sent = {one["codec"]: one["sent_bytes"] / one["bytes"] for one in found["codecs"]}
    assert (sent["bf16"], sent["fp32"]) == (0.5, 1.0)


def test_a_peer_of_the_same_shape_has_the_same_arithmetic(bench, monkeypatch):
    steps = bench("gpu_steps")
    monkeypatch.setattr(torch, "compile", bench("gpu").as_it_is)
    for name in ("mpt-125m", "llama-125m"):
        inner = steps.inner_of(steps.Cell(name), CPU, True)
        ours, counted = build_model(inner, 0), model_cost(inner).flops_per_token
        assert steps.flops_of(ours, inner) == counted
        for arm in ("minimal", "transformers"):
            assert steps.ARMS[arm](inner, CPU)[1] == counted


def test_eight_bits_are_measured_where_there_are_units_for_them(bench, monkeypatch):
    steps = bench("gpu_steps")
    assert not any(cell.precision == "amp_fp8" for part in steps.cells(CPU) for cell in part)
    monkeypatch.setattr(steps, "lack_of_fp8", lambda device: None)
    found = [cell.compile for cell in steps.cells(CPU)[1] if cell.precision == "amp_fp8"]
    assert found == [how for how in ("block", "whole") for _ in steps.ROWS]


def test_what_there_is_no_time_for_is_named(bench, tmp_path, capsys):
    bench("gpu").main(["--device=cpu", "--smoke", "--seconds=0", f"--out={tmp_path}"])
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())
    first, then = bench("gpu_steps").cells(CPU)
    assert not any(found[part] for part in PARTS)
    assert len(found["skipped"]) == len(first) + len(then) + 2 + 2
    assert "no time left for steps: mpt-125m photon block amp_bf16" in capsys.readouterr().out


def test_a_part_that_fails_is_a_result(bench, tmp_path, monkeypatch, capsys):
    gpu, steps = bench("gpu"), bench("gpu_steps")

    def full(inner, device):
        raise torch.OutOfMemoryError("out of memory: 80 GB\nmore")

    monkeypatch.setitem(steps.ARMS, "photon", full)
    report = gpu.Report(tmp_path / "x.json", float("inf"), {})
    gpu.steps(report, [steps.Cell("mpt-125m")], CPU, True)
    assert report.parts["steps"][0]["error"] == "out of memory: 80 GB"
    assert "| failed: out of memory: 80 GB |" in capsys.readouterr().out


def test_a_file_is_named_after_the_device(bench):
    assert bench("gpu").file_name("NVIDIA H100 80GB HBM3") == "gpu-h100-80gb-hbm3.json"


def script(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu.sh")],
        env={**os.environ, "PHOTON_PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_gpu_the_script_says_so():
    done = script(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.sh: PyTorch sees no GPU here")
    assert len(done.stderr.splitlines()) == 1


def test_the_script_names_what_is_missing(tmp_path):
    """Of a Python that has nothing but its own library."""
    alone = tmp_path / "python"
    alone.write_text(f'#!/bin/sh\n[ "$1" = - ] && exec {sys.executable} -I -S -\nexit 1\n')
    alone.chmod(0o755)
    copy = tmp_path / "benchmarks" / "gpu.sh"  # beside no .venv
    copy.parent.mkdir()
    copy.write_text((BENCHMARKS / "gpu.sh").read_text())
    done = subprocess.run(["bash", copy], env={**os.environ, "PHOTON_PYTHON": str(alone)},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 2
    assert "lacks torch transformers" in done.stderr
    assert "hydra-core" in done.stderr
    assert "PHOTON_WHEELS" in done.stderr
