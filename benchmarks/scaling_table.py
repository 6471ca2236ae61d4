"""What `scaling.py` has logged, for people. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from page.section import percent
from page.section import table as markdown
from records import current
from scaling_law import Law, Losses, exponents, law_with_floor, left_out, power_law
from scaling_plan import LINKS, MODELS, RUNGS
from scaling_published import PAPER, PUBLISHED
from scaling_runs import ARMS, CENTRALISED, RECIPE, SIZES, TUNING, best_rate, loss_of

Record = Mapping[str, Any]
HOUR = 3600.0


def table(records: Sequence[Record]) -> str:
    """Markdown: loss against size, plans, what was published, the simulator."""
    newest = [*of(records, "run"), *latest(records)]
    parts = (loss_table(newest), law_table(newest), plan_table(newest), paper_table(newest),
             published_table(newest), simulated_table(newest))  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def of(records: Iterable[Record], part: str) -> list[Record]:
    return [one for one in records if one["part"] == part]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each plan and simulation the newest."""
    others = [one for one in records if one["part"] != "run"]
    return list(current(others, "part", "model", "link", "rung", "server", "local_steps", "sent"))


def reported(records: Sequence[Record]) -> list[Record]:
    """Runs of the seeds that laws are fitted to, each size and arm at its rate."""
    return [
        one
        for one in of(records, "run")
        if one["seed"] != TUNING and one["rate"] == best_rate(records, one["size"], one["arm"])
    ]


def losses(records: Sequence[Record], arm: str) -> Losses:
    """Parameters -> losses of the seeds; what diverged is in no law."""
    found: dict[float, list[float]] = {}
    for one in reported(records):
        if one["arm"] == arm and math.isfinite(loss_of(one)):
            found.setdefault(one["parameters"], []).append(one["val_loss"])
    return dict(sorted(found.items()))


def ratios(records: Sequence[Record], size: str) -> list[float]:
    """Federated over centralised, seed by seed."""
    own = {(one["arm"], one["seed"]): loss_of(one) for one in reported(records)
           if one["size"] == size}  # fmt: skip
    seeds = sorted(seed for arm, seed in own if arm == RECIPE and (CENTRALISED, seed) in own)
    return [own[RECIPE, seed] / own[CENTRALISED, seed] for seed in seeds]


def loss_table(records: Sequence[Record]) -> str:
    rows = []
    for size in SIZES:
        found = [one for one in reported(records) if one["size"] == size]
        if found:
            by_arm = {arm: [loss_of(one) for one in found if one["arm"] == arm] for arm in ARMS}
            tokens = max(one.get("tokens", 0) for one in found)
            rows.append([size, f"{tokens / 1e6:.2f} M", *map(_ends, by_arm.values()),
                         _ends(ratios(records, size))])  # fmt: skip
    head = ["parameters", "tokens", *(f"loss, {arm}" for arm in ARMS), "ratio of each seed"]
    return markdown(head, rows) if rows else ""


def law_table(records: Sequence[Record]) -> str:
    """What the losses of each arm say of larger models, as far as three sizes can."""
    rows = []
    for arm in ARMS:
        found = losses(records, arm)
        if len(found) >= 3:
            low, high = exponents(found)
            missed = ", ".join(percent(one, 1) for one in left_out(found).values())
            rows.append([arm, _law(power_law(found)), f"{low:.3f} .. {high:.3f}", missed,
                         _law(law_with_floor(found))])  # fmt: skip
    head = ["arm", "power law", "exponent, 90 % of draws of the seeds",
            "each size by the law of the others", "with a floor"]  # fmt: skip
    return markdown(head, rows) if rows else ""


def _law(law: Law) -> str:
    if law.floor and not law.is_determined:
        return "not determined"
    floor = f"{law.floor:.2f} + " if law.floor else ""
    return f"{floor}{law.scale:.3g} N^-{law.exponent:.3f}"


def _ends(values: Sequence[float]) -> str:
    shown = [f"{end(values):.3f}" for end in (min, max) if values]
    return " .. ".join(dict.fromkeys(shown)).replace("inf", "diverged")


PLAN = ("model", "link", "sent up / down", "hours", "utilization", "TB in all", "dollars",
        "less than data-parallel: time",
        "bytes")  # fmt: skip


def plan_table(records: Sequence[Record]) -> str:
    """Each model and link: data-parallel, then the federation at each rung."""
    found = {(one["model"], one["link"], one["rung"]): one for one in of(records, "plan")}
    rows = []
    for model in MODELS:
        for link in LINKS:
            own = [found[model, link, rung] for rung in RUNGS if (model, link, rung) in found]
            rows += [_run(own[0], "data_parallel", "data-parallel, bf16")] if own else []
            rows += [_run(one, "federated", one["rung"]) for one in own]
    return markdown(PLAN, rows) if rows else ""


def _run(record: Record, kind: str, sent: str) -> list[str]:
    run, twin = record[kind], record["data_parallel"]
    less = ["", ""] if run is twin else [
        f"{number(twin[name] / run[name])}x" for name in ("seconds", "total_bytes")
    ]  # fmt: skip
    return [record["model"], record["link"], sent, number(run["seconds"] / HOUR),
            f"{run['utilization']:.1%}", number(run["total_bytes"] / 1e12),
            f"{run['cost']:,.0f}", *less]  # fmt: skip


def number(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def paper_table(records: Sequence[Record]) -> str:
    """The paper's 7B run by our plan; what was published of it is the first row."""
    head = ["the paper's 7B run", "sent", "local steps", "hours", "of these exchange",
            "centralised", "less by"]  # fmt: skip
    told = _paper("published, 10 Gbit/s", "not told", "64 to 512", PAPER["federated_hours"],
                  PAPER["federated_exchange_hours"], PAPER["centralised_hours"])  # fmt: skip
    rows = [
        _paper(f"planned, {one['link']}", one["sent"], str(one["local_steps"]), *paper_hours(one))
        for one in of(records, "paper")
    ]
    return markdown(head, [told, *rows]) if rows else ""


def paper_hours(record: Record) -> tuple[float, float, float]:
    """Of the federation; of its exchange; of the centralised run with as many steps as it had."""
    run, twin = record["federated"], record["data_parallel"]
    step = twin["compute_seconds"] + twin["exchange_seconds"]
    return (
        run["seconds"] / HOUR,
        run["rounds"] * run["exchange_seconds"] / HOUR,
        record["centralised_steps"] * step / HOUR,
    )


def _paper(
    what: str, sent: str, steps: str, hours: float, exchange: float, twin: float
) -> list[str]:
    return [what, sent, steps, f"{hours:,.1f}", f"{exchange:.2f}", f"{twin:,.1f}",
            f"{1 - hours / twin:.1%}"]  # fmt: skip


def published_table(records: Sequence[Record]) -> str:
    head = ["published", "setting", "figure"]
    return markdown(head, PUBLISHED) if of(records, "plan") else ""


def simulated_table(records: Sequence[Record]) -> str:
    head = ["model", "link", "the server's", "s a round: planned", "simulated", "ratio",
            "bits a parameter and round: planned", "simulated"]  # fmt: skip
    rows = [
        [one["model"], one["link"], one["server"],
         *(f"{one[f'{how}_seconds']:.1f}" for how in ("planned", "simulated")),
         f"{one['planned_seconds'] / one['simulated_seconds']:.3f}",
         *(f"{one[f'{how}_bits']:.1f}" for how in ("planned", "simulated"))]
        for one in of(records, "simulated")
    ]  # fmt: skip
    return markdown(head, rows) if rows else ""
