"""Does a federation learn? The gate, and the quickstart's recipe beside its baselines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import gate
from proof_parts import commands_of
from quality_arms import QUICKSTART, RECIPE, arm_of, is_known
from quality_setting import Setting, setting_of
from quality_tuning import SEED
from records import Record

from page.section import Claim, Logs, Section

CENTRALISED, ALONE, UNIGRAM = 1.15, 0.85, 0.75
"""The most that a loss may be of its baseline's."""
FEW_LEVELS = "kept: uniform:107/7 / uniform:75/11"
"""The arm of `compression.py` that is the recipe of `long_rounds.py`."""
BEFORE = "the quickstart until it averaged squares"
Losses = dict[tuple[str, int], float]


def section(logs: Logs) -> Section:
    records = logs("gate")
    return Section(
        title="Does a federation learn?",
        measured=MEASURED,
        misleads=MISLEADS,
        commands=commands_of("gate"),
        records=records,
        claims=claims(records, logs("compression"), logs("quality")),
        tables=[gate.table(records)] if records else [],
        about="gate",
    )  # fmt: skip


def claims(
    records: Sequence[Record], sent: Sequence[Record], tuned: Sequence[Record]
) -> list[Claim]:
    """Of the gate, and of later recipes, whose runs are those of `compression.py` and, of the
    quickstart as it is, of `quality.py`.
    """
    losses = losses_of(records)
    small = [one for one in sent if (one["model"], one["split"]) == ("tiny", "iid")]
    losses |= losses_of([one for one in small if one["local_steps"] == 16 and not one["rounds"]])
    today = losses_of([one for one in tuned if _is_quickstart(one)])
    unigram = {("unigram", one["seed"]): one["unigram"] for one in records if "unigram" in one}
    broken = [f"broken: {how}" for how in gate.BROKEN]
    return [
        _against("federated", "centralised", losses, CENTRALISED, "the same tokens and steps"),
        _against("federated", "alone", losses, ALONE, "one client by itself"),
        _against("centralised", "unigram", losses | unigram, UNIGRAM, "token frequencies alone"),
        Claim("*federated*: times fewer bytes than data-parallel training",
              times(records, "federated"), form=".1f", each="seed", unit="x"),
        _against(FEW_LEVELS, "centralised", losses, CENTRALISED, "moments kept, few levels"),
        _against(FEW_LEVELS, "alone", losses, ALONE, "moments kept, few levels"),
        _against(RECIPE, "centralised", today, CENTRALISED, BEFORE),
        _against(RECIPE, "alone", today, ALONE, BEFORE),
        _against(QUICKSTART, "centralised", today, CENTRALISED, "the quickstart as it is"),
        _against(QUICKSTART, "alone", today, ALONE, "the quickstart as it is"),
        Claim("aggregators broken on purpose miss the first bar",
              [ratio for arm in broken for ratio in ratios(losses, arm, "centralised")],
              CENTRALISED, at_least=True),
    ]  # fmt: skip


def _is_quickstart(record: Record) -> bool:
    """Whether a line of `quality.py` is of the quickstart or its baselines, not of tuning."""
    own = arm_of(record["arm"]).placed(Setting()) if is_known(record["arm"]) else None
    return own == setting_of(record) and record["seed"] != SEED


def _against(arm: str, baseline: str, losses: Losses, bar: float, words: str) -> Claim:
    found = ratios(losses, arm, baseline)
    return Claim(f"*{arm}* / *{baseline}* ({words})", found, bar, each="seed")


def losses_of(records: Iterable[Record]) -> Losses:
    """By arm and seed; infinite where it diverged."""
    return {(one["arm"], one["seed"]): _loss(one) for one in records}


def _loss(record: Record) -> float:
    loss = record.get("val_loss")
    return math.inf if loss is None else loss


def ratios(losses: Losses, arm: str, baseline: str) -> list[float]:
    """Of the seeds that both have, in their order, but for baselines that diverged."""
    found = {seed: loss for (one, seed), loss in losses.items() if one == baseline}
    seeds = sorted(seed for one, seed in losses if one == arm)
    return [losses[arm, s] / found[s] for s in seeds if math.isfinite(found.get(s, math.inf))]


def times(records: Iterable[Record], arm: str) -> list[float]:
    found = [one for one in records if one["arm"] == arm and one.get("bytes")]
    return [one["bytes_ddp"] / one["bytes"] for one in found]


MEASURED = """
Validation loss, seed by seed, on the quickstart's data and model: the standard library of Python as
text (3.2 M training tokens at a vocabulary of 2048) split i.i.d. by document over eight clients, a
Llama of 3 layers and width 96 (0.53 M parameters), rows of 128 tokens, 4 rows a client and step, 24
rounds of 16 local steps. *centralised* joins the clients' batches and takes the same steps, so the
same tokens; *alone* is client 0 with its own batch and the same steps, an eighth of the tokens.
*federated* and *centralised* share the learning rate that is best for *centralised* on the grid;
*alone* has its own best. The gate holds for a seed where the first three ratios keep their bars.
*federated* and the recipes of the table average inner moments every round and send bf16, the
quickstart's recipe when they ran; then it kept moments and sent few levels, see [bytes](#bytes).
Since then its rounds have eight steps and its learning rates are larger: see [quality](#quality).
"""
MISLEADS = """
384 steps of a model of half a million parameters are the hard case for local training, and say
nothing about a model that a product would use. The grid, the other recipes and the broken
aggregators have one seed, which is one of the gate's three: differences below 1 % between them mean
nothing. The recipe was chosen on seeds 0 and 1 of the same validation set. AdamW's rows say which
recipe to use here, not how good AdamW can get, and both columns of ratios compare every row with
the Muon baselines.
"""
