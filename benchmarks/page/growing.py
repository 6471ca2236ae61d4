"""Larger models: loss against size, and what 125M, 1B and 7B would take over links."""

from __future__ import annotations

import scaling_law
import scaling_table
from proof_parts import commands_of
from records import Record
from scaling_runs import ARMS, SIZES

from page.section import Claim, Logs, Section

PLANNED = 0.1
"""The most that a plan may be off, a share."""
MISSED = 0.05
"""The most that the smaller sizes' law may miss the largest, a share."""


def section(logs: Logs) -> Section:
    records = logs("scaling")
    return Section(
        title="Larger models",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("scaling"),
        records=[*scaling_table.of(records, "run"), *scaling_table.latest(records)],
        claims=claims(records) if records else [],
        tables=[scaling_table.table(records)] if records else [],
    )


def claims(records: list[Record]) -> list[Claim]:
    newest = scaling_table.latest(records)
    return [
        *(Claim(f"federated / centralised loss at {size} parameters",
                scaling_table.ratios(records, size), each="seed") for size in SIZES),
        *(Claim(f"the largest size by the power law of the smaller ones: how far it is off, {arm}",
                missed(scaling_table.losses(records, arm)), MISSED, form=".1%", each="law")
          for arm in ARMS),
        Claim("the paper's 7B run, planned: how far 95.6 h are off at 64, 128 and 512 local steps",
              [abs(scaling_table.paper_hours(one)[0] / scaling_table.PAPER["federated_hours"] - 1)
               for one in scaling_table.of(newest, "paper") if one["sent"] == "fp32"
               and one["link"] == "10 Gbit/s"], PLANNED, form=".1%", each="setting"),
        *simulated(newest),
    ]  # fmt: skip


def missed(losses: scaling_law.Losses) -> list[float]:
    """Of the largest size; nothing before three were run."""
    if len(losses) < 3:
        return []
    return [abs(scaling_law.left_out(losses)[max(losses)])]


def simulated(records: list[Record]) -> list[Claim]:
    """Seconds of a round, by the server's link."""
    off: dict[str, list[float]] = {}
    for one in scaling_table.of(records, "simulated"):
        ratio = one["planned_seconds"] / one["simulated_seconds"]
        off.setdefault(one["server"], []).append(abs(ratio - 1))
    return [
        Claim(f"the plan beside the simulator, server's link {server}: how far seconds of a round "
              "are off", own, PLANNED, form=".1%", each="model") for server, own in off.items()
    ]  # fmt: skip


MEASURED = """
*Loss against size*: Llamas of three sizes, the quickstart's data and recipe, eight clients, 8 local
steps, about three tokens for each parameter, 4096 tokens in a step whoever takes part. A power law
is fitted to the logarithms of all seeds (Charles et al. 2025, arXiv:2503.09799), and one with a
floor (Hoffmann et al. 2022, arXiv:2203.15556). *Plans*, none of which was run: the original's
presets with their batch shared by eight clients, their steps, 500 of them local, moments kept; a
client of 125M has one H100, of 1B and 7B eight, at 40 % of their peak and 2.50 dollars an hour;
every latency is 50 ms. A line of the log has the `photon plan` command that prints it.
Data-parallel is the twin with as many tokens and steps: a ring of bf16 gradients over the same
links. *The paper's 7B run*: its centralised exchange of 97.2 h gives the steps, its two compute
times what a step takes and how many the federation took; what its exchange and the whole take is
the plan's. *The simulator*: the real server and nodes with a small model over links that are as
much slower as it is smaller.
"""
MISLEADS = """
Three sizes within a factor of five, whose embeddings are from a quarter to more than half of them,
determine a law with a floor exactly and leave a power law one degree of freedom: it says how the
two arms compare, not what a model of 125M would reach. The smallest size reads less than a quarter
of the text, the largest all of it once. Rates are the best of 0.012, 0.018 and 0.027 at seed 4: at
the smallest size that is the largest of them for both arms, so that better ones may lie beyond, and
at the largest size 0.027 was not tried for the federation, which has 0.018. Equal tokens are not
equal quality: the plans take the same steps for both sides, while the paper's federation took 1.9
times the compute to the same perplexity, and sparse rungs cost loss in short runs (see
[bytes](#bytes)). That 95.6 h are met is easy, since 95.5 of them are compute, which is given to the
plan; its exchange is the test, and that is met at 512 local steps in 4 bits, not in fp32. Nobody
would run data-parallel training of eight sites over 100 Mbit/s, nor without hiding gradients behind
the backward pass or compressing them, neither of which is counted; the ring's latencies are 0.7 s
of each of its steps. The paper's figures are from notes on it that agree, not from its text; those
of others are quoted from their papers or from notes on them, in other settings than ours. The price
is supposed. Utilization counts what `photon plan` supposes of a round's floor, 2 s.
"""
