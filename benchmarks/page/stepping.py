"""What a training step takes beside its peers."""

from __future__ import annotations

from collections.abc import Iterable

import train_step
from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section, table


def section(logs: Logs) -> Section:
    lines = [one for one in logs("train_step") if "peer" in one]
    records = current(lines, "peer", "family", "size", "instructions")
    return Section(
        title="Training step",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("train_step"),
        records=records,
        claims=claims(records),
        tables=[step_table(records)] if records else [],
        about="train_step",
    )


def claims(records: Iterable[Record]) -> list[Claim]:
    """Medians of all model families, by peer, size and instructions, where there is a bar."""
    found: dict[tuple[str, float], list[float]] = {}
    for one in records:
        if one["bar"] is not None:
            found.setdefault((f"{_peer(one)}, {one['size']}", one["bar"]), []).append(one["ratio"])
    return [
        Claim(f"{what}: its CPU time over ours", ratios, bar, at_least=True, each="family")
        for (what, bar), ratios in found.items()
    ]


def _peer(record: Record) -> str:
    only = f" ({record['instructions']} only)" if record.get("instructions") else ""
    return f"{record['peer']}{only}"


def step_table(records: Iterable[Record]) -> str:
    head = ["peer", "family", "size", "peer / ours", "of the best", "our ms", "peer's ms"]
    return table(head, map(_row, records))


def _row(record: Record) -> list[str]:
    ratio = f"{record['ratio']:.3f}"
    if "ratio_min" in record:
        ratio += f" ({record['ratio_min']:.3f} .. {record['ratio_max']:.3f})"
    known = [(record.get(name), form) for name, form in (
        ("ratio_of_best", ".3f"), ("our_cpu_ms", ".1f"), ("peer_cpu_ms", ".1f"))]  # fmt: skip
    numbers = ["" if value is None else f"{value:{form}}" for value, form in known]
    return [_peer(record), record["family"], record["size"], ratio, *numbers]


_large, _small = train_step.LARGE, train_step.SMALL
MEASURED = f"""
Process CPU time of a step, the peer's over ours, in alternated pairs: above 1 means that ours is
cheaper. *small* is {_small.layers} layers of width {_small.width}, vocabulary {_small.vocab}, rows
of {_small.length} tokens; *large* {_large.layers} layers of width {_large.width}, vocabulary
{_large.vocab}, rows of {_large.length}; fp32, clipping, fused AdamW on both sides. Hugging Face's
`Trainer` is measured in two ways: each in its own process, as its users run it and as `photon
train` runs, which is what the bar asks; and in one process, where it too has the allocator settings
that `photon train` makes. On a GPU `bash benchmarks/gpu.sh` measures steps, rounds, the close of a
round and the codecs in one JSON.
"""
MISLEADS = """
At the larger size two thirds of a step are matrix products, which are the same on both sides; most
of what is saved is memory that is kept from step to step instead of being faulted in again, as the
rows with our allocator show. It is a CPU's saving at these sizes; there is no figure from a GPU
here.
"""
