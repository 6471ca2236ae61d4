"""How long the rungs of the ladder of compression take, beside a copy of the same bytes.

    python benchmarks/codec.py                      all rungs, 32 million elements, 2 threads
    python benchmarks/codec.py --rungs int4 topk:64/4096/1 --elements 100000000

Each time of a rung is taken between two of the copy, and divided by their mean; the table has the
medians. A copy writes memory that is there already; `new` is one that has to ask for it, as a
codec does for what it gives. What is encoded has a residual, as in every round but the first; it
is read in pieces, as the mean of a round reads. A line of each rung goes to
benchmarks/results/codec.jsonl; with --smoke tensors are tiny and nothing is kept.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from records import RESULTS, append

from photon import points
from photon.core.aggregate import MOST_ELEMENTS
from photon.core.codec import Codec, Leaf

LOG = RESULTS / "codec.jsonl"
BARS = {"bf16": 3, "int8": 3, "int4": 5, "e3m0": 5, "int2": 5, "topk": 25, "uniform": 25}
"""Copies that encoding and decoding may take together."""


def measured(codec: Codec, value: torch.Tensor, times: int) -> dict[str, float]:
    """Seconds of a copy, and how many copies encoding and reading take; the bits per element."""
    kept, left = torch.empty_like(value), 0.1 * value.flip(0)
    sent = codec.encode(value, left.clone())[0]

    def encode() -> object:
        nonlocal left
        parts, after = codec.encode(value, left)
        left = left if after is None else after
        return parts

    runs: dict[str, Callable[[], object]] = {
        "new": value.clone,
        "encode": encode,
        "read": lambda: read(Leaf(codec, value.shape, sent), kept),
    }
    found: dict[str, list[float]] = {what: [] for what in ("copy", *runs)}
    before = seconds(lambda: kept.copy_(value))
    for _ in range(times):
        for what, run in runs.items():
            took = seconds(run)
            after = seconds(lambda: kept.copy_(value))
            found[what].append(2 * took / (before + after))
            found["copy"].append(after)
            before = after
    medians = {what: statistics.median(each) for what, each in found.items()}
    size = sum(part.numel() * part.element_size() for part in sent.values())
    return medians | {"bits": 8 * size / value.numel()}


def read(leaf: Leaf, into: torch.Tensor) -> None:
    for start in range(0, leaf.numel(), MOST_ELEMENTS):
        stop = min(start + MOST_ELEMENTS, leaf.numel())
        into[start:stop] = leaf.read(start, stop)


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    kept = run()
    took = time.perf_counter() - begun
    del kept
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rungs", nargs="*", default=list(points.CODECS))
    parser.add_argument("--elements", type=int, default=1 << 25)
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    try:
        rungs = {name: points.codec(name) for name in arguments.rungs}
    except ValueError as error:
        parser.error(str(error))
    if arguments.smoke:
        arguments.elements, arguments.times = 1 << 14, 1
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    value = torch.randn(arguments.elements)
    print(f"{'rung':<18}{'bits':>8}{'encode':>8}{'read':>7}{'both':>7}{'bar':>5}  copies; new, ms")
    for name, codec in rungs.items():
        found = measured(codec, value, arguments.times)
        both, bar = found["encode"] + found["read"], BARS.get(name.partition(":")[0], "")
        print(
            f"{name:<18}{found['bits']:8.3f}{found['encode']:8.2f}{found['read']:7.2f}{both:7.2f}"
            f"{bar:>5}  {found['new']:.2f}; {1000 * found['copy']:.1f}",
            flush=True,
        )
        if not arguments.smoke:
            size = {"elements": arguments.elements, "threads": arguments.threads}
            append(LOG, {"rung": name, **size, "copies": both, **found})


if __name__ == "__main__":
    main()
