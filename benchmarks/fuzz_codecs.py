"""Fuzz what reads encoded tensors: each mutant is refused, or read as sound numbers.

    python benchmarks/fuzz_codecs.py                     a million mutants
    python benchmarks/fuzz_codecs.py --count 100000 --seed 7

A mutant that is not refused must give a row of the declared length without a NaN, the same in
pieces as whole.
"""

from __future__ import annotations

import random
from collections import Counter

import fuzzing
import torch
from torch import Tensor

from photon import points
from photon.core.codec import Codec, Leaf, encode, form_fault

RUNGS = ["int8:8", "int4:16", "e3m0:64", "int2:8", "int1:8", "uniform:150/5", "uniform:50/15",
         "uniform:200/3", "topk:3/64", "topk:3/64/1", "topk:8/8", "topk:1/4096"]  # fmt: skip
SHAPES = [(), (5,), (7, 33), (1500,), (0,)]
NUMBERS = [0, 1, -1, 2, 63, 255, 1 << 15, (1 << 31) - 1, -(1 << 31), 0x7F800000, 0x7FC00000]


def fuzz(count: int, seed: int) -> Counter[str]:
    """Outcomes by kind of mutation; an assertion fails where a reader does.

    Raises:
        AssertionError: a mutant was read as what it cannot be.
    """
    rng = random.Random(seed)
    originals = payloads()
    outcomes: Counter[str] = Counter()
    for index in range(count):
        codec, like, sent = originals[index % len(originals)]
        mutation = rng.choice(MUTATIONS)
        mutant = mutation(sent.clone(), rng)
        is_read = try_one(codec, like, mutant, rng)
        outcomes[f"{mutation.__name__} {'read' if is_read else 'refused'}"] += 1
    return outcomes


def payloads() -> list[tuple[Codec, Tensor, Tensor]]:
    """Small tensors by all rungs, and means of squares by their own."""
    torch.manual_seed(0)
    found = []
    for name in RUNGS:
        codec = points.codec(name)
        for shape in SHAPES:
            value = torch.randn(shape)
            found.append((codec, value, encode({"w": value}, codec)[0]["w"]))
            if codec.squares:
                squares = encode({"w": value.square()}, codec.squares)[0]["w"]
                found.append((codec.squares, value, squares))
    return found


def try_one(codec: Codec, like: Tensor, mutant: Tensor, rng: random.Random) -> bool:
    """Whether the mutant was read, and then rightly so."""
    if form_fault({"w": mutant}, {"w": like}, codec):
        return False
    leaf = Leaf(codec, like.shape, {"": mutant})
    found = leaf.read(0, like.numel())
    assert found.shape == (like.numel(),)
    assert found.dtype == torch.float32
    start = rng.randrange(like.numel() + 1)
    stop = rng.randrange(start, like.numel() + 1)
    part = leaf.read(start, stop)
    assert torch.equal(part.nan_to_num(), found[start:stop].nan_to_num())
    assert not found.isnan().any()
    return True


def length(sent: Tensor, rng: random.Random) -> Tensor:
    """Shorter, longer, or with something left out."""
    at = rng.randrange(len(sent) + 1)
    new = torch.tensor(list(rng.randbytes(rng.randrange(9))), dtype=torch.uint8)
    rest = sent[at + rng.choice([0, 0, 1, 4]) :]
    return rng.choice([sent[:at], torch.cat([sent[:at], new, rest]), torch.cat([sent, new])])


def bits(sent: Tensor, rng: random.Random) -> Tensor:
    for _ in range(rng.randrange(1, 4) if len(sent) else 0):
        sent[rng.randrange(len(sent))] ^= 1 << rng.randrange(8)
    return sent


def number(sent: Tensor, rng: random.Random) -> Tensor:
    """Another number of four bytes, mostly where one is."""
    at = rng.choice([0, 0, 4, rng.randrange(len(sent) + 1)])
    new = torch.tensor([rng.choice(NUMBERS)], dtype=torch.int32).view(torch.uint8)
    sent[at : at + 4] = new[: max(0, len(sent) - at)]
    return sent


def noise(sent: Tensor, rng: random.Random) -> Tensor:
    """Random bytes from a place on."""
    at = rng.randrange(len(sent) + 1)
    sent[at:] = torch.tensor(list(rng.randbytes(len(sent) - at)), dtype=torch.uint8)
    return sent


MUTATIONS = [length, bits, number, noise]


if __name__ == "__main__":
    torch.set_num_threads(1)
    fuzzing.run(__doc__, 1_000_000, fuzz)
