"""The table of device peaks, by the names that drivers report."""

from __future__ import annotations

import pytest
import torch

from photon.runtime.device import peak_flops

GPU = torch.device("cuda:0")


@pytest.mark.parametrize(
    ("name", "bf16", "fp16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 989, 67),
        ("NVIDIA H100 PCIe", 756, 756, 51),
        ("NVIDIA H100 NVL", 835, 835, 60),
        ("NVIDIA H200", 989, 989, 67),
        ("NVIDIA GH200 480GB", 990, 990, 67),
        ("NVIDIA B200", 2250, 2250, 75),
        ("NVIDIA A100-SXM4-80GB", 312, 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 312, 19.5),
        ("NVIDIA A10", 125, 125, 31.2),
        ("NVIDIA A10G", 70, 70, 35),
        ("NVIDIA L4", 121, 121, 30.3),
        ("NVIDIA L40S", 362, 362, 91.6),
        ("Tesla V100-SXM2-16GB", None, 125, 15.7),
        ("Tesla V100-PCIE-32GB", None, 112, 14),
        ("NVIDIA GeForce RTX 4090", 165.2, 165.2, 82.6),
        ("AMD Instinct MI300X", 1307.4, 1307.4, 163.4),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None),
        ("NVIDIA GeForce GTX 1080", None, None, None),
    ],
)
def test_peaks_of_the_data_sheets(monkeypatch, name, bf16, fp16, fp32):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    found = [peak_flops(GPU, precision) for precision in ("amp_bf16", "amp_fp16", "fp32")]
    assert found == [None if x is None else pytest.approx(x * 1e12) for x in (bf16, fp16, fp32)]


def test_a_cpu_has_no_entry():
    assert peak_flops(torch.device("cpu"), "fp32") is None
