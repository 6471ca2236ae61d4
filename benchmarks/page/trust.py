"""What lying clients do, what robust rules cost, and what secure aggregation costs."""

from __future__ import annotations

from collections.abc import Iterable

import poison
from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section, table

ABOVE = 2.0
"""The most that the loss may rise by, in percent."""
TIMES = 3.0
"""The most that a rule may take, in closes of the mean."""


def lies(logs: Logs) -> Section:
    records = current(logs("poison"), "attack", "setting", "seed")
    closes = current(logs("aggregation"), "rule", "codec", "clients", "parameters")
    tables = [poison.table([dict(one) for one in records]) if records else "", close_table(closes)]
    return Section(
        title="Clients that lie",
        measured=LIES,
        misleads=LIES_MISLEAD,
        commands=commands_of("poison", "aggregation"),
        about="lies",
        records=[*records, *closes],
        claims=lies_claims(records, closes),
        tables=[one for one in tables if one],
    )


def lies_claims(records: Iterable[Record], closes: Iterable[Record]) -> list[Claim]:
    """Where all lies were refused the parameters are those without liars; and a close's time."""
    by_key = {poison.key(one): dict(one) for one in records}
    said = [poison.verdict([one], by_key) for one in by_key.values()]
    above: dict[tuple[str, bool], list[float]] = {}
    for one in by_key.values():
        if one["attack"] != poison.ABSENT and (ratio := poison.beside_control(one, by_key)):
            believed = one["setting"] == poison.REFERENCE and one["attack"] in poison.BELIEVED
            above.setdefault((one["setting"], believed), []).append(100 * (ratio - 1))
    by_rule: dict[str, list[float]] = {}
    for one in closes:
        if one["rule"] != "mean":
            by_rule.setdefault(one["rule"], []).append(one["times"])
    return [
        Claim("parameters where every lie was refused: runs that differ from those without the "
              "liars", [said.count("OTHER")] if any(said) else [], 0, form=".0f", each="set"),
        *(Claim(f"loss with liars above that without, by *{setting}*"
                f"{', lies that it does not look for' if believed else ''}", found,
                None if believed else ABOVE, form="+.2f", each="run", unit=" %")
          for (setting, believed), found in sorted(above.items())),
        *(Claim(f"a close by *{rule}*, in times of the mean's", found, TIMES, form=".2f",
                each="case") for rule, found in by_rule.items()),
    ]  # fmt: skip


def close_table(records: Iterable[Record]) -> str:
    rows = [
        [one["codec"], str(one["clients"]), one["rule"], f"{one['seconds']:.3f}",
         f"{one['seconds'] / one['times']:.3f}", f"{one['times']:.2f}", f"{one['megabytes']:.0f}"]
        for one in records
    ]  # fmt: skip
    head = [
        "codec",
        "clients",
        "rule",
        "s a close",
        "s of the mean in turns with it",
        "times the mean",
        "MB beyond",
    ]
    return table(head, rows) if rows else ""


def secure(logs: Logs) -> Section:
    records = current(logs("secure"), "parameters", "clients", "lost")
    return Section(
        title="Secure aggregation",
        measured=SECURE,
        misleads=SECURE_MISLEADS,
        commands=commands_of("secure"),
        records=records,
        claims=[Claim("sums that differ from the plain fixed-point mean in any bit",
                      [float(not one["equal_to_plain"]) for one in records], 0, form=".0f",
                      each="session")],
        tables=[secure_table(records)] if records else [],
    )  # fmt: skip


def secure_table(records: Iterable[Record]) -> str:
    head = ["parameters", "clients", "dropped out", "s to mask, a client", "without masks",
            "s of the server", "MB of an update", "kB of messages, a client"]  # fmt: skip
    return table(head, map(_secure_row, records))


def _secure_row(one: Record) -> list[str]:
    messages = one["client_bytes_messages_up"] + one["client_bytes_messages_down"]
    return [f"{one['parameters'] / 1e6:.0f} M", str(one["clients"]), str(one["lost"]),
            f"{one['client_seconds']['masks']:.1f}", f"{one['client_seconds_unmasked']:.1f}",
            f"{one['server_seconds']:.1f}", f"{one['client_bytes_masked'] / 1e6:.0f}",
            f"{messages / 1e3:.1f}"]  # fmt: skip


LIES = """
Two of eight clients (the quickstart with rounds of 16 steps, as it was) send something else than
they have trained, by the way of merging; losses are those of whole runs, beside those of the
default settings without the liars, seed by seed. A refused update leaves no trace: where every
answer of a liar was refused, the parameters must be those of the same settings without them, bit
for bit. Below it, what each rule's close takes beside the mean's: the quickest of turns, and memory
beyond what was there.
"""
LIES_MISLEAD = """
Liars here do not know what the others send, and two of eight is within what each rule withstands;
whoever knows more can do more, and a lie that looks honest is found by none of them. The clients'
data is alike, which is the easy case for a median. A rule stands beside the mean that took turns
with it, whose seconds differ: with 4 clients and bf16 it is slower after another rule than after
itself, with 32 beside two of the rules; against its quickest time these would miss the bar.
"""
SECURE = """
Whole sessions in one process, one client after the other: every client masks all its numbers, into
a file of its own as on a node, and the server undoes the masks of the sum. Seconds are of a client
alone on the machine's cores.
"""
SECURE_MISLEADS = """
Times depend on the load of the machine: the same masks took 2.1 and 4.4 s, the same numbers without
masks 0.3 to 2.9 s. No link is in them. A client makes as many masks as there are others; the server
one for each client that is left, and for each that dropped out as many as are left: drop-outs are
what is dear.
"""
