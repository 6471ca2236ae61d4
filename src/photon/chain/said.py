"""What the link of a commit says of its round, from the values of the round itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from photon.chain.link import Entry, Kind, digest_of_plan
from photon.core.messages import RoundPlan, RoundReport, Update
from photon.core.text import cleaned


@dataclass(frozen=True, slots=True)
class Said:
    """Attributes:
    plan: its digest.
    updates: those that were accepted.
    refused: client -> reason.
    """

    kind: Kind
    plan: str = ""
    updates: tuple[Entry, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


REDRAWN = Said("redrawn")


def said_of(plan: RoundPlan | None, report: RoundReport, blind: str) -> Said:
    """Of a round that has closed, or was given up.

    Args:
        plan: None: nobody was there to be asked.
        blind: goes into its digest: without it nobody can try which cohort has that digest.
    """
    return Said(
        kind="round" if report.taken else "skipped",
        plan=plan_digest(plan, blind) if plan else "",
        updates=tuple(entry_of(update) for update in report.taken),
        refused={str(client): cleaned(why) for client, why in report.refused.items()},
    )


def entry_of(update: Update) -> Entry:
    """What is said of an update."""
    origin = update.origin
    assert origin is not None, "an update of nowhere"
    return Entry(
        client=update.client,
        covers=list(update.covers),
        round=update.round,
        base=update.base_digest,
        digest=origin.digest,
        size=origin.size,
        tokens=update.num_tokens,
        steps=update.num_steps,
        node=origin.node,
        key=origin.key,
        signature=origin.signature,
    )


def plan_digest(plan: RoundPlan, blind: str = "") -> str:
    """Of all that was asked for: whoever has kept the plan can show that it was this one."""
    return digest_of_plan(
        {
            "run": plan.run,
            "round": plan.round,
            "cohort": list(plan.cohort),
            "spares": list(plan.spares),
            "base": plan.base_digest,
            "fragment": plan.fragment,
            "trained": None if plan.trained is None else list(plan.trained),
            "sent": None if plan.sent is None else list(plan.sent),
            "instructions": [asdict(plan.instructions[client]) for client in plan.cohort],
            **({"blind": blind} if blind else {}),
        }
    )
