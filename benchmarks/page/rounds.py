"""How busy a round keeps the device, and what its close takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section, table

BUSY = {"reset": 0.90, "averaged": 0.80}
"""What becomes of inner moments -> the least share of the time that the device is busy."""
PAYLOADS, TIMES = 4.0, 1.5


def section(logs: Logs) -> Section:
    rounds = current(logs("round"), "moments", "way", "parameters", "workers")
    closes = current(logs("close"), "parameters", "clients")
    return Section(
        title="Rounds",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("round"),
        records=[*rounds, *closes],
        claims=claims(rounds, closes),
        tables=[round_table(rounds)] if rounds else [],
        about="rounds",
    )


def claims(rounds: Sequence[Record], closes: Iterable[Record]) -> list[Claim]:
    ours = [one for one in rounds if one["way"] == "overlapped"]
    return [
        *(Claim(f"share of a round that the device is busy, moments {one['moments']}",
                [one["device_busy"]], BUSY.get(one["moments"]), at_least=True) for one in ours),
        Claim("peak memory, in payloads", [max(one["peak"]) for one in ours], PAYLOADS, form=".1f",
              each="case"),
        *(Claim(f"close of a round of {one['clients']} x {one['parameters'] / 1e6:.0f}M, in times "
                "that its bytes are read and written once",
                [one["ratio"]], TIMES, form=".1f", spread=(one["ratio_min"], one["ratio_max"]))
          for one in closes),
    ]  # fmt: skip


def round_table(records: Sequence[Record]) -> str:
    parts = list(records[0]["parts"])
    rows = [
        [one["moments"], one["way"], f"{one['payload_megabytes']:.0f}", f"{one['seconds']:.1f}",
         f"{one['device_busy']:.3f}",
         *(f"{one['parts'][name]:.1f}" if name in one["parts"] else "" for name in parts),
         " + ".join(f"{value:.1f}" for value in one["peak"])]
        for one in records
    ]  # fmt: skip
    head = ["moments", "way", "payload MB", "s a round", "device_busy", *parts, "peak, payloads"]
    return table(head, rows)


MEASURED = """
Real rounds of eight clients with 125 million parameters, local engine in one process, durable; a
stand-in takes the trainer's place, which takes 2.3 s a client without the processor. *reset*: inner
moments are thrown away; *averaged*: they travel with the update, three times the bytes.
*overlapped* is what Photon does; *sequential* is the same code with each write waited for before
anything else (its waits count as *record*). Seconds are of one round, from record to record. The
close (check, norms, mean, cosines, Nesterov in place) stands beside a plain loop over the same
bytes, and gives the same bits in every order of arrival.
"""
MISLEADS = """
*load* and *encode* are copies and casts that a GPU makes by itself, in milliseconds; here the
processor makes them in the device's place, so that no bar of a busy device can be judged without
one. Of the close, what is left are the conversion of bf16 and a second pass over float32 in the
cache, each an operation of its own. One fused loop would need a compiler, and not keep the bar
either: see below what C takes.
"""
