"""What is sent, changed at random: refused, or read as sound numbers of the right shape."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import zstandard

from photon import points
from photon.core.codec import Leaf, decode, encode, form_fault

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_mutants_are_refused_or_read_soundly(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from fuzz_codecs import fuzz  # pyright: ignore[reportMissingImports]

    outcomes: Counter[str] = fuzz(4000, 0)
    for kind in ("length", "bits", "number", "noise"):
        assert outcomes[f"{kind} refused"] > 50, outcomes
    assert sum(outcomes.values()) == 4000


LIKE = {"w": torch.linspace(-1, 1, 9000)}


@pytest.mark.parametrize("rung", ["int8", "int4", "e3m0", "int2", "int1"])
@pytest.mark.parametrize("base", [-1, -(2**31), 2**31 - 1, 0, (255 << 4) - 255])
def test_a_scale_that_is_no_number_is_refused(rung, base):
    codec = points.codec(rung)
    sent = encode(LIKE, codec)[0]["w"]
    sent[:4] = torch.tensor([base], dtype=torch.int32).view(torch.uint8)
    assert form_fault({"w": sent}, LIKE, codec) == "w: a scale is negative, too small or not finite"


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), 1e-38])
def test_a_step_that_is_no_number_is_refused(scale):
    codec = points.codec("uniform")
    sent = encode(LIKE, codec)[0]["w"]
    sent[:4] = torch.tensor([scale]).view(torch.uint8)
    found = form_fault({"w": sent}, LIKE, codec)
    assert found == "w: its scale is negative, too small or not finite"


@pytest.mark.parametrize("count", [-1, 0, 140, 142, 2**31 - 1])
def test_another_number_of_places_is_refused(count):
    codec = points.codec("topk")
    sent = encode(LIKE, codec)[0]["w"]
    assert sent[4:8].view(torch.int32).item() == 141
    sent[4:8] = torch.tensor([count], dtype=torch.int32).view(torch.uint8)
    assert "its places" in (form_fault({"w": sent}, LIKE, codec) or "")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (lambda row: zstandard.ZstdCompressor().compress(row[:-1]), "not from 3000 bytes"),
        (lambda row: zstandard.ZstdCompressor().compress(bytes(1 << 40 >> 18)), "not from 3000"),
        (lambda row: zstandard.ZstdCompressor(write_content_size=False).compress(row), "not from"),
        (lambda row: 2 * zstandard.ZstdCompressor().compress(row[:1500]), "not from 3000"),
        (lambda row: zstandard.ZstdCompressor().compress(row) + b"x", "cannot be decompressed"),
        (lambda row: zstandard.ZstdCompressor().compress(row)[:-1], "cannot be decompressed"),
        (lambda row: zstandard.ZstdCompressor().compress(bytes([125]) * 3000), "of no level"),
        (lambda row: b"", "cannot be decompressed"),
        # A frame that says it is 2**60 bytes.
        (lambda row: bytes.fromhex("28b52ffde0") + (1 << 60).to_bytes(8, "little") + row[:9],
         "not from 3000 bytes"),
    ],
)  # fmt: skip
def test_a_frame_of_anything_else_is_refused(frame, reason):
    codec = points.codec("uniform")
    data = frame(bytes(range(100)) * 30)
    sent = torch.tensor([0, 0, 128, 63, *data], dtype=torch.uint8)
    found = codec.fault(Leaf(codec, LIKE["w"].shape, {"": sent}))
    assert found is not None
    assert reason in found


@pytest.mark.parametrize("rung", ["uniform", "topk"])
def test_what_was_checked_is_not_opened_again(rung, monkeypatch):
    codec = points.codec(rung)
    sent, opened = encode(LIKE, codec)[0], {}
    expected = decode(sent, LIKE, codec)["w"]
    assert form_fault(sent, LIKE, codec, opened) is None
    monkeypatch.setattr("photon.codecs.golomb.read", None)
    monkeypatch.setattr("photon.codecs.uniform._decompressed", None)
    assert torch.equal(opened["w"].read(0, 9000), expected)
