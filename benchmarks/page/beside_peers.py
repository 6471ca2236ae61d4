"""Photon beside its peers, each by its own code: where it is cheaper, and where it is not."""

from __future__ import annotations

import peer_table
from proof_parts import commands_of
from records import Record

from page.section import Claim, Logs, Section

OURS = "photon"


def section(logs: Logs) -> Section:
    records = logs("peers")
    return Section(
        title="Peers",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=[*commands_of("peers", "peers: trainer"),
                  "peers.py scores FOLDER-OF-THE-GAUNTLET"],
        records=records,
        claims=claims(records),
        tables=[peer_table.table(records)] if records else [],
    )  # fmt: skip


def claims(records: list[Record]) -> list[Claim]:
    """A peer's processor time over ours, pair by pair; below 1 it is the cheaper one."""
    ratios: dict[str, list[float]] = {}
    found = [one for one in records if "missing" not in one]
    rounds = [one for one in found if one["part"] == "rounds"]
    ours = {(one["megabytes"], one["pair"]): one for one in rounds if one["peer"] == OURS}
    for one in rounds:
        twin = ours.get((one["megabytes"], one["pair"]))
        if one["peer"] != OURS and twin is not None:
            what = f"{one['peer']}, a round of {one['megabytes']:g} MB without training"
            ratios.setdefault(what, []).append(one["cpu_seconds"] / twin["cpu_seconds"])
    for one in found:
        if one["part"] == "diloco":
            what = f"DiLoCo in {one['peer']}, {one['local_steps']} local steps"
            ratios.setdefault(what, []).append(one["peer_cpu_seconds"] / one["our_cpu_seconds"])
        elif one["part"] in ("trainer", "scores"):
            ratios.setdefault(f"{one['peer']}, {one['part']}", []).append(one["ratio"])
    return [
        Claim(f"{what}: its processor time over ours", own, 1.0, at_least=True, form=".2f",
              each="pair")
        for what, own in ratios.items()
    ]  # fmt: skip


MEASURED = """
Photon and each peer by its own code on one machine: a round without training between its
processes, DiLoCo in plain torch on the same trajectory, a step of Hugging Face's
`Trainer`, scores of lm-eval. Where a peer is cheaper the claim does not hold.
"""
MISLEADS = """
The peers do not do the same, as the notes say: what is durable and verified costs time that a ring
in memory does not spend. Nobody encrypts or signs here, Photon neither (`--insecure`). Few pairs
were run, and of a model of 1 MB alone, where what a round costs beside its payload decides; 100 MB
were not measured. Flower and Photon took turns, with little other work; torchft and hivemind ran in
an earlier call on a busy machine, not in turns with the Photon that they stand beside: of these
processor time says more than seconds.
"""
