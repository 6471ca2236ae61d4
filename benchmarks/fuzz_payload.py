"""A million mutated payloads: each is refused by a `PayloadError`, or equal to what was sent.

python benchmarks/fuzz_payload.py [--count N] [--seed S]

The same mutants as the test of 100,000; half have a right digest, so that the parser must hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from photon.errors import PayloadError
from photon.runtime.payload import PayloadRef, parse_payload, payload_digest, write_payload

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "runtime"))
from test_payload import mutated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, begun, read = random.Random(arguments.seed), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p"
        ref = write_payload(path, {"a": torch.arange(5.0), "b": torch.arange(3)}, {"k": 1})
        data = path.read_bytes()
    for count in range(arguments.count):
        mutant, own = mutated(data, rng), ref
        try:
            if count % 2:
                own = PayloadRef(payload_digest(memoryview(mutant)), len(mutant))
            parse_payload(mutant, own)
        except PayloadError:
            continue
        read += 1
        if count % 2 == 0 and mutant != data:
            raise SystemExit(f"mutant {count} was read in place of what was sent")
    took, refused = time.monotonic() - begun, arguments.count - read
    print(f"{arguments.count:,} mutants in {took:.0f} s: {refused:,} refused, {read:,} sound")


if __name__ == "__main__":
    main()
