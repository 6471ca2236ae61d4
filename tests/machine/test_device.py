"""The table of device peaks, by the names that drivers report."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from photon.errors import DeviceError
from photon.machine.device import choose_device, peak_flops, precision_warning

GPU = torch.device("cuda:0")


@pytest.mark.parametrize(
    ("name", "bf16", "fp16", "fp32", "fp8"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 989, 67, 1978),
        ("NVIDIA H100 PCIe", 756, 756, 51, 1512),
        ("NVIDIA H100 NVL", 835, 835, 60, 1670),
        ("NVIDIA H200", 989, 989, 67, 1978),
        ("NVIDIA GH200 480GB", 990, 990, 67, 1980),
        ("NVIDIA B200", 2250, 2250, 75, 4500),
        ("NVIDIA A100-SXM4-80GB", 312, 312, 19.5, None),
        ("NVIDIA A100 80GB PCIe", 312, 312, 19.5, None),
        ("NVIDIA A10", 125, 125, 31.2, None),
        ("NVIDIA A10G", 70, 70, 35, None),
        ("NVIDIA L4", 121, 121, 30.3, 242),
        ("NVIDIA L40S", 362, 362, 91.6, 724),
        ("Tesla V100-SXM2-16GB", None, 125, 15.7, None),
        ("Tesla V100-PCIE-32GB", None, 112, 14, None),
        ("NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6, 330.4),
        ("AMD Instinct MI300X", 1307.4, 1307.4, 163.4, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None, None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None, None),
        ("NVIDIA GeForce GTX 1080", None, None, None, None),
    ],
)
def test_peaks_of_the_data_sheets(monkeypatch, name, bf16, fp16, fp32, fp8):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    precisions = ("amp_bf16", "amp_fp16", "fp32", "amp_fp8")
    found = [peak_flops(GPU, precision) for precision in precisions]
    expected = (bf16, fp16, fp32, fp8)
    assert found == [None if x is None else pytest.approx(x * 1e12) for x in expected]


def test_a_cpu_has_no_entry():
    assert peak_flops(torch.device("cpu"), "fp32") is None


def test_an_emulated_precision_is_said(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    warning = precision_warning(torch.device("cpu"), "amp_bf16")
    assert warning is not None
    assert "set llm_config.precision=fp32" in warning
    assert precision_warning(torch.device("cpu"), "fp32") is None
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert precision_warning(torch.device("cpu"), "amp_bf16") is None


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:x", "CPU"])
def test_a_device_that_nothing_trains_on_is_refused(name):
    with pytest.raises(DeviceError, match=f"photon.device={name}: not a device; use cpu, cuda"):
        choose_device(name)


FREES = """
import sys
from photon.machine import device
getattr(device, sys.argv[1])()
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) // 1024
before = anonymous()
blocks = [bytes(bytearray(2 << 20)) for _ in range(40)]
del blocks[:-1]  # the last one keeps the others from the end of the heap
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(("policy", "least", "most"), [
    ("keep_freed_memory", 70, 200), ("return_freed_memory", 0, 10),
])  # fmt: skip
def test_freed_blocks_are_kept_for_training_and_given_back_by_a_server(policy, least, most):
    command = [sys.executable, "-c", FREES, policy]
    kept = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert least <= kept <= most
