"""Who waits, what not waiting costs in loss, and the simulator beside real runs."""

from __future__ import annotations

import modes
import waiting
from proof_parts import commands_of
from quality_arms import AND, QUICKSTART, RECIPE
from quality_setting import Setting, setting_of
from quality_tuning import SEED as TUNING
from records import Record, current

from page.learning import losses_of, ratios
from page.section import Claim, Logs, Section, table

MOST_ABOVE = {
    "fragments 2": 0.005,
    "overlap delayed, 1 step": 0.005,
    "fragments 2, overlap delayed, 1 step": 0.005,
    "asynchronous, equal speeds": 0.01,
    "asynchronous, two of eight 4x slower": 0.02,
}
"""Arm of `modes.py` -> the most that its loss may be above the synchronous one, a share."""
OF_THE_RECIPE = {
    "overlap: 1 step": 0.005,
    "overlap: 1 step, fragments 2": 0.005,
    "asynchronous: equal speeds": 0.01,
    "asynchronous: a quarter 4x slower": 0.02,
}
"""Arm of `quality.py` -> the most that its loss may be above that of the recipe, a share."""
OF_THE_QUICKSTART = {
    f"{arm}{AND}{QUICKSTART}": 0.005
    for arm in ("overlap: 1 step", "overlap: 1 step, fragments 2", "recipe: fragments 2")
}
"""The same, above that of the quickstart as it is."""
NAMES = {RECIPE: "recipe without averaged moments", QUICKSTART: "quickstart's recipe"}
"""What an arm is compared with, as the page has it."""
ROUNDS_A_MINUTE = 200.0
"""The least that the simulator does with 2,000 virtual clients that train nothing."""
NEAR = 0.1
"""The most that a prediction of the simulator may be off, a share."""


def section(logs: Logs) -> Section:
    waits = current(logs("waiting"), "setting", "arm", "seed")
    runs, told = logs("modes"), current(logs("simulate"), "way")
    many = current(logs("many_clients"), "clients")
    today = [one for one in logs("quality") if setting_of(one) == Setting()]
    tables = [
        waiting.table(waits) if waits else "",
        modes.table(runs) if runs else "",
        simulated_table(told) if told else "",
        many_table(many) if many else "",
    ]
    return Section(
        title="Not waiting",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("waiting", "modes", "simulate", "many clients"),
        records=[*waits, *runs, *told, *many],
        claims=[
            *_of_waiting(waits),
            *_of_modes(runs),
            *_of_recipe(today),
            *_of_simulator(told),
            *_of_many(many),
        ],
        tables=[one for one in tables if one],
        images=[("loss-of-not-waiting.png", "Loss above the synchronous run, each seed")],
        about="waiting",
    )


def _of_waiting(records: list[Record]) -> list[Claim]:
    return [
        Claim(f"{waiting.FIGURE[one['setting']]}: *{one['setting']}*, {one['arm']}",
              [one[waiting.FIGURE[one["setting"]]]], one["bar"], at_least=True, each="seed")
        for one in records if one["bar"] is not None
    ]  # fmt: skip


def _of_modes(records: list[Record]) -> list[Claim]:
    losses = losses_of(records)
    return [
        Claim(f"loss above the synchronous run: {arm}",
              [ratio - 1 for ratio in ratios(losses, arm, modes.REFERENCE)], most, form="+.2%",
              each="seed")
        for arm, most in MOST_ABOVE.items()
    ]  # fmt: skip


def _of_recipe(records: list[Record]) -> list[Claim]:
    """Of the lines of the quality table in the quickstart's setting."""
    losses = losses_of([one for one in records if one["seed"] != TUNING])
    arms = [(arm, most, RECIPE) for arm, most in OF_THE_RECIPE.items()]
    arms += [(arm, most, QUICKSTART) for arm, most in OF_THE_QUICKSTART.items()]
    return [
        Claim(f"loss above the {NAMES[beside]}, rounds of 8 steps: {arm}",
              [ratio - 1 for ratio in ratios(losses, arm, beside)], most, form="+.2%", each="seed")
        for arm, most, beside in arms
    ]  # fmt: skip


def _of_simulator(records: list[Record]) -> list[Claim]:
    return [
        Claim(f"the simulator, {one['way']}: how far seconds of a round and utilization are off",
              [abs(one["ratio"][name] - 1) for name in ("round_seconds", "utilization")], NEAR,
              form=".1%", each="figure")
        for one in records
    ]  # fmt: skip


def _of_many(records: list[Record]) -> list[Claim]:
    return [
        Claim(f"rounds a minute with {one['clients']:,} virtual clients",
              [60 * one["rounds"] / one["seconds"]], ROUNDS_A_MINUTE, at_least=True, form=".0f")
        for one in records
    ]  # fmt: skip


def simulated_table(records: list[Record]) -> str:
    head = ["simulated", "s a round: predicted", "real", "ratio", "utilization: predicted", "real",
            "ratio"]  # fmt: skip
    rows = [[one["way"], *_beside(one, "round_seconds"), *_beside(one, "utilization")]
            for one in records]  # fmt: skip
    return table(head, rows)


def _beside(record: Record, name: str) -> list[str]:
    return [f"{record[kind][name]:.2f}" for kind in ("predicted", "real", "ratio")]


def many_table(records: list[Record]) -> str:
    """Virtual clients with the stand-in for training."""
    head = ["virtual clients", "a round", "rounds", "seconds", "MB at most"]
    names = ("clients", "per_round", "rounds", "seconds", "megabytes")
    return table(head, [[f"{one[name]:,.0f}" for name in names] for one in records])


MEASURED = """
*Who waits*: real processes behind shaped links, with steps of 0.4 s (0.2 s and 0.8 s in *uneven*),
so that the processor does not decide. *links* are so slow that half of a synchronous round in bf16
is communication; in *uneven* one of four clients is four times slower, and nodes are killed with -9
every 20 s in the mean. Utilization is seconds of steps over seconds of nodes, the last round, whose
update nothing overlaps, in it; goodput is tokens that were merged over tokens trained. *Loss at
equal tokens*: the quickstart with rounds of 16 steps, as it was, and its codecs, nothing else
changed or tuned anew; asynchronous runs are the simulator's, whose training is real, with step
times that vary by 5 %. *The recipe as it is* has rounds of 8 steps; its lines are those of the
quality table. *The simulator beside real runs*: nodes over the same shaped links.
"""
MISLEADS = """
*Who waits* has one seed, under some load from other work, and its overlap is that of whole rounds,
which these links need and which costs the loss of the second table: what hides everything is not
what one should use. Of *4x slower*, seeds 1 and 2 ran before momentum went with the part nearest to
a whole round. Overlapped, nodes have taken most steps of the second round before the first record,
from which a real run is counted: in six rounds that makes 13 % of utilization, in twenty 6 %.
Virtual clients of the last table train nothing.
"""
