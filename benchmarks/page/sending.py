"""Loss against bytes, and what codecs take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import codec
from compression import GOALS
from compression_arms import AVERAGED, Setting, reference_of
from compression_table import Goal, sent, setting_of, table
from proof_parts import commands_of
from records import Record, current

from page.learning import FEW_LEVELS, losses_of, ratios
from page.section import Claim, Logs, Section, verdict
from page.section import table as table_of

IMAGE = "loss-against-bytes.png"
FINER = "kept: uniform:50/15 / uniform:50/15"
LONG_RUNS, LONG_ROUNDS = 400, 1000
"""Times fewer bytes that are a goal of long runs, and of long rounds."""


class Sent(NamedTuple):
    """An arm in a setting.

    Attributes:
        above: of each seed, the loss above that of the same recipe in bf16, a share.
        times: fewer bytes than data-parallel training, by the seed that sent the most.
    """

    arm: str
    setting: Setting
    above: list[float]
    times: float


def section(logs: Logs) -> Section:
    records = logs("compression")
    return Section(
        title="Bytes",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("compression"),
        records=records,
        claims=[
            *(nearest(goal, arms(records)) for goal in GOALS),
            of_recipe(records),
            *elsewhere(arms(records)),
        ],
        tables=[table(records)] if records else [],
        images=[(IMAGE, "Loss against all bytes that were sent, a point for each run")],
        about="bytes",
    )


def arms(records: Iterable[Record]) -> list[Sent]:
    """Arms that have a reference to be compared with."""
    by_setting: dict[Setting, dict[str, list[Record]]] = {}
    for one in records:
        by_setting.setdefault(setting_of(one), {}).setdefault(one["arm"], []).append(one)
    found = []
    for setting, own in by_setting.items():
        losses = losses_of(one for runs in own.values() for one in runs)
        for arm, runs in own.items():
            above = [ratio - 1 for ratio in ratios(losses, arm, reference_of(arm))]
            times = min(one["bytes_ddp"] / sent(one) for one in runs)
            found += [Sent(arm, setting, above, times)] if above else []
    return found


def is_meant(goal: Goal, setting: Setting) -> bool:
    """Whether a goal is one of runs like these: the quickstart's, long ones, or ones whose rounds
    are long.
    """
    if goal.times >= LONG_ROUNDS:
        return setting.local_steps >= 32
    return setting == (Setting(rounds=200) if goal.times >= LONG_RUNS else Setting())


def nearest(goal: Goal, found: Iterable[Sent]) -> Claim:
    """The goal, by the arm with the most seeds that sends so little, and of these the best."""
    what = f"{goal.times:g}x fewer bytes than data-parallel"
    if goal.times >= LONG_RUNS:
        of = "32 steps or more" if goal.times >= LONG_ROUNDS else "16 steps, 200 of them"
        what = f"{what}, in rounds of {of}"
    there = [one for one in found if one.times >= goal.times and is_meant(goal, one.setting)]
    if not there:
        return Claim(what, [], goal.worse, form="+.2%")
    best = min(there, key=lambda one: (-len(one.above), max(one.above)))
    words = f"{what}: *{best.arm}* at {best.times:.1f}x, above bf16"
    return Claim(words, best.above, goal.worse, form="+.2%", each="seed")


def elsewhere(found: Iterable[Sent]) -> list[Claim]:
    """What the rungs that are recommended cost in other rounds, and of other splits."""
    others = [one for one in found if one.arm in (FEW_LEVELS, FINER) and one.setting != Setting()]
    return [
        Claim(f"{one.setting.title}: *{one.arm}* at {one.times:.1f}x, above bf16", one.above,
              form="+.2%", each="seed")
        for one in others
    ]  # fmt: skip


def of_recipe(records: Iterable[Record]) -> Claim:
    plain = [one for one in records if setting_of(one) == Setting()]
    above = [ratio - 1 for ratio in ratios(losses_of(plain), FEW_LEVELS, AVERAGED)]
    words = f"*{FEW_LEVELS}* above averaged moments in bf16"
    return Claim(words, above, form="+.2%", each="seed")


def codecs(logs: Logs) -> Section:
    records = current(logs("codec"), "rung")
    return Section(
        title="Codecs",
        measured=CODECS,
        misleads=CODECS_MISLEAD,
        commands=commands_of("codec"),
        records=records,
        tables=[codec_table(records)] if records else [],
    )


def codec_table(records: Sequence[Record]) -> str:
    """Copies that each rung takes, beside its bar."""
    head = ["rung", "copies", "bar", "holds", "elements", "threads"]
    return table_of(head, map(_codec_row, records))


def _codec_row(record: Record) -> list[str]:
    most, copies = codec.BARS.get(record["rung"].partition(":")[0]), record["copies"]
    held = None if most is None else copies <= most
    bar = "" if most is None else f"at most {most}"
    elements = f"{record['elements'] / 1e6:.0f} M"
    return [record["rung"], f"{copies:.1f}", bar, verdict(held), elements, str(record["threads"])]


MEASURED = """
The quickstart's model, data and steps, in rounds of 16 unless said, see above. Validation loss
against all bytes that were sent, both ways, headers and first parameters included. *averaged*:
inner moments are averaged every round (betas 0.9 / 0.95, momentum 0.9). *kept*: clients keep them,
with a longer memory of squares and a shorter one of gradients (betas 0.8 / 0.999, momentum 0.8).
*smoothed*: the same, and the average of the rounds is validated (`fl.ema_decay=0.95`). Then up /
down; ± is half of what lies between the seeds. A claim is by the arm with most seeds, and holds
where each of them keeps the bar.
"""
MISLEADS = """
Data-parallel training is counted as a ring of bf16 gradients of all steps, without any compression
of its own, so that part of each factor is the steps between two rounds and part the codec. The
recipes were chosen at seed 1337, the two steps 107 and 75 between their neighbours in this table at
seed 1; rows of one seed differ by less than 1 % for no reason. What is cheap for 24 rounds of half
a million parameters may not be so for long runs. Long rounds of so short a run are few, and their
recipe is that of short ones, in bf16 as well. Factors above 200 are bought with long rounds: what
they cost beside short ones is far more than the codec's part that stands here (rounds of 256 steps
end at 2.87 to 2.97 in bf16, so that seeds differ by more than the codec costs; as many steps in
rounds of 8 end at 2.56 in the recipe of the quality table). *fragments 4*: a quarter of the
parameters in each round, so that each waits for four; beside whole rounds in bf16. Of 200 rounds
one seed says little: four fragments in bf16 end higher than the same ones in few levels, so that
chance is several percent. *smoothed* ends lower in bf16 than *kept* at seed 1, and not in
fragments. Not measured: decays of the residual below 1.
"""
CODECS = """
Encode and read together, as multiples of a copy of the same fp32 tensor in memory that is there
already; each time is taken between two copies. What is encoded has a residual, as in every round
but the first.
"""
CODECS_MISLEAD = """
Blocks miss their bars: they are some ten PyTorch operations over a piece in the cache, where one
fused loop would do. A copy is as fast as memory is, so that a machine with slower memory shows
smaller multiples; in seconds a codec is small beside the steps of a round.
"""
