"""As good as centralised training? The quality table, and the goals of its recipe."""

from __future__ import annotations

from dataclasses import asdict

import quality_table
from compression_arms import STEPS
from proof_parts import commands_of
from quality_arms import QUICKSTART, RECIPE
from quality_setting import Setting
from records import Record

from page.section import Claim, Logs, Section

CENTRALISED, ALONE, TIMES = 1.05, 0.765, 50.0
"""Goals: the most that bits per byte may be of the baselines', and the least times fewer bytes."""
LONG, CENTRALISED_LONG, AVERAGED = 3000, 1.02, "recipe: average of many rounds"
"""From so many steps on a stricter goal, for the arm that averages its rounds too."""


def section(logs: Logs) -> Section:
    records = logs("quality")
    return Section(
        title="Quality",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("quality"),
        records=records,
        claims=claims(records),
        tables=[quality_table.table(records)] if records else [],
        images=[(f"quality-{axis}.png", f"Loss against {axis}") for axis in quality_table.AXES]
        if quality_table.federations(quality_table.gathered(records)) else [],
        about="quality",
    )  # fmt: skip


def claims(records: list[Record]) -> list[Claim]:
    """The goals: of the quickstart's setting, and of the same with more steps."""
    runs = quality_table.gathered(records)
    found = []
    for setting in quality_table.federations(runs):
        if asdict(setting) | {"steps": STEPS} != asdict(Setting()):
            continue
        is_long = setting.steps >= LONG
        for row in quality_table.rows(runs, setting):
            if row.arm in (RECIPE, QUICKSTART) or (is_long and AVERAGED in row.arm):
                found += _goals(row, CENTRALISED_LONG if is_long else CENTRALISED)
    return found


def _goals(row: quality_table.Row, most: float) -> list[Claim]:
    which = "" if row.arm == RECIPE else f", {row.arm.replace(f'{RECIPE}: ', '')}"
    where, less = f"{which}: {row.setting.title}", [] if row.less is None else [row.less]
    return [
        Claim(f"the recipe / centralised{where}", row.centralised, most, each="seed"),
        Claim(f"the recipe / alone{where}", row.alone, ALONE, each="seed"),
        Claim(f"times fewer bytes than data-parallel{where}", less, TIMES, at_least=True,
              form=".1f", each="seed that sent most"),
    ]  # fmt: skip


MEASURED = """
Ways of training one model on text in several places, each tuned at a seed that no table has, over
as many rates around what is best for its kind: all arms take the same tokens in the same number of
sequential steps. Ratios are of bits per byte, seed by seed, to the tuned centralised run and to one
client alone. *recipe* is what the quickstart had until it averaged squares, and what changes are
compared with; *recipe: seldom averaged squares* is the quickstart as it is.
"""
MISLEADS = """
So few steps are the hard case for local training. Minutes are planned, not measured, those of
earlier lines anew since a floor of 2 s, before it was 6 s. An arm whose rates say that they are
another's was not tuned by itself, which is a handicap for it. Where rates are best at the edge of
their grid, as FedAvg's and DiLoCo's, better ones may lie beyond. All arms train with Muon: *DiLoCo*
is its outer step and moments that clients keep, while the published one has AdamW inside and
hundreds of steps a round, neither of which is in the table. Other numbers of clients and of local
steps, for *recipe* and *DiLoCo* alike, have the rates that were found for eight and eight. Over
3,072 steps nobody was tuned over a grid: *centralised* has the better of two rates, at seed 4, of
which it is the lower one; the federation with averaged squares has the best of three, at seed 1,
which is one of its three; the recipe by itself has its rates of 384 steps. Data-parallel training
is counted without compression of its own. Length of rounds, moments and codecs of the recipe were
searched for too, at the same seed; the other federations have its rounds and their own rates.
*centralised* has its usual moments; with the recipe's it ends alike in the quickstart itself
(3.262, seed 1337), which is all that was measured of that.
"""
