"""Time to a loss over slow links, beside data-parallel training and beside what was predicted."""

from __future__ import annotations

import links_table
from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section

NEAR = 0.1
"""The most that a prediction may be off, a share."""


def section(logs: Logs) -> Section:
    records = current(logs("links"), "part", "arm", "seed", "mbit", "milliseconds")
    return Section(
        title="Links and failures",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("links"),
        records=records,
        claims=claims(records),
        tables=[links_table.table(records)] if records else [],
        about="links",
    )


def claims(records: list[Record]) -> list[Claim]:
    """How much sooner than DDP each arm is there, and how far predictions are off."""
    found = [
        Claim(f"times sooner than DDP at the same loss: {arm}", values, 1.0, at_least=True,
              form=".2f", each="link")
        for arm, values in links_table.times_faster(records).items()
    ]  # fmt: skip
    for kind, who in (("planned", "`photon plan`"), ("simulated", "the simulator")):
        offs = [links_table.off(one, kind) for one in links_table.of_part(records, "link")]
        values = [abs(one) for one in offs if one is not None]
        if values:
            found.append(Claim(f"{who}: how far seconds of a step are off", values, NEAR,
                               form=".1%", each="run"))  # fmt: skip
    return found


MEASURED = """
Four sites train the quickstart's model behind links of their own, whose steps last 0.4 s at least:
torch's DDP over gloo with gradients in bf16, and Photon in bf16 (plain), as the quickstart
is (compressed), and with one step of overlap besides (overlapped). Seconds to the loss are
steps to it, from the curve of a whole run, times seconds of a step, from a short run over the link.
Nodes of Photon are killed with -9 and are back after a second. A kill of a DDP process stops all of
them: it costs half of what lies between two checkpoints, in the mean, and a start of all.
"""
MISLEADS = """
The loss is the lowest that all arms come to, which is where the overlapped one ends; in as many
steps compressed comes to 3.307, plain to 3.298 and DDP to 3.260, which no federation reaches.
Nobody ran to the loss over a link: a curve does not depend on links, but one seed's does on chance.
DDP's curve is that of the centralised run of the same steps, not of bf16 gradients, and its cost of
a kill is stated, not measured. The two kinds of shaper differ: Photon's passes bytes on between two
connections of this machine, DDP's passes packets of 64 KB on between networks; in neither does TCP
start slowly, and a delay is paid once between any two sites. Packets of DDP are counted with their
headers, bytes of Photon without. Runs over a link are too short for the rounds in which the
quickstart's squares are averaged, a thirtieth of its bytes. DDP has one bucket and broadcasts no
buffers, as suits long links, and sends nothing while it computes. A plan counts each latency of the
ring once, where gloo asks before each part whether it may send it. The model is small; the
simulator has no data-parallel runs.
"""
