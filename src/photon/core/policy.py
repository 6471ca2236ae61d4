"""The policy of a round: whom to ask, when to close, whom to take, with what weight.

Pure functions of what is known: another policy is another body of one of them. The loop of rounds
asks them, and engines carry out what comes of it.

    may_be_asked, asked, assign, steps_by_speed    before and while clients train
    closing, is_out_of_reach                       whether the round waits on
    merges, grace                                  the same, of an asynchronous one
    counted, averaged, weight, scale, share        what goes into the mean, and how far it goes
    oldest_taken                                   how late an update may be
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from photon.core.aggregate import Mixing, Private, plain
from photon.core.codec import Codecs
from photon.core.messages import RoundPlan, Update

Scaling = Literal["none", "sqrt", "linear"]


GRACE = 0.15
"""Of the median duration of an update: so long a merge waits for more once there is one."""
LEAST_PACE, MOST_PACE = 0.25, 2.0
"""Of the local steps, that a slow and a fast client of an asynchronous run take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """The numbers of an asynchronous run.

    Attributes:
        buffer: sound updates that close a merge.
        cohort: clients that train at a time.
        step_tokens: that all of them train in one local step.
        local_steps: of a round, if all were equally fast.
        slack: seconds that clients can go on training without an answer.
    """

    buffer: int
    cohort: int
    step_tokens: int
    local_steps: int
    slack: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers by which a round is closed.

    Attributes:
        quorum: fewest clients whose updates close it.
        can_be_late: whether a client may keep the others waiting: then spares are asked at once,
            and the clock closes the round.
        timeout: seconds that a round waits for its quorum, and at most for anybody.
        timeout_min: seconds that it waits for stragglers at the least.
        straggler_factor: deviations beyond the median duration after which a client is late.
        up, down: codecs of updates, and of what clients receive.
        max_norm_ratio: to the median norm, beyond which an update is refused; None: any.
        mixing: how updates are merged.
        tables: names of the embeddings and the output layer, for `mixing`.
        scaling: the mean pseudo-gradient is multiplied by 1, sqrt(K) or K, for K updates.
        staleness_exponent: a late update weighs (1 + rounds late)^-exponent of its tokens (Xie et
            al. 2019, arXiv:1903.03934, section 5.2, polynomial); None: it is refused.
        max_staleness: rounds after which a late update is refused.
        merging: of an asynchronous run, in which a round is a merge; None: rounds are synchronous.
        ahead: most steps that a client of the last round takes before the base arrives.
        part: of its pseudo-gradient, that a client goes on with after a round.
        again: of the server's last step, that it goes on with as well.
        private: how updates are merged where no client may show, in the place of `mixing`.
        masked: whether the server gets the sum of the updates, and no single one.
    """

    quorum: int
    can_be_late: bool = False
    timeout: float = math.inf
    timeout_min: float = 0.0
    straggler_factor: float = 5.0
    up: Codecs = field(default_factory=Codecs)
    down: Codecs = field(default_factory=Codecs)
    max_norm_ratio: float | None = None
    mixing: Mixing = plain
    tables: frozenset[str] = frozenset()
    scaling: Scaling = "none"
    staleness_exponent: float | None = None
    max_staleness: int = 4
    merging: Merging | None = None
    ahead: int = 0
    part: Callable[[int], float] = lambda round_number: 1.0
    again: Callable[[int], float] = lambda round_number: 0.0
    private: Private | None = None
    masked: bool = False


def may_be_asked(
    here: Collection[int], training: Collection[int], owing: Collection[int], quorum: int
) -> list[int]:
    """Who can take part in the next round.

    Args:
        here: clients whose nodes are here.
        training: those that are still at an earlier round.
        owing: those whose late update has come and is not applied yet: asked only where the quorum
            would not be there without them.
    """
    free = set(here).difference(training)
    fresh = free.difference(owing)
    return sorted(fresh if len(fresh) >= quorum else free)


def waiting_longest(
    here: Collection[int], last_accepted: Mapping[int, int], count: int
) -> tuple[int, ...]:
    """As many clients as were accepted the longest ago, or never; in ascending order."""
    ranked = sorted(here, key=lambda client: (last_accepted.get(client, 0), client))
    return tuple(sorted(ranked[:count]))


def asked(plan: RoundPlan, lost: Collection[int], rules: Rules) -> tuple[int, ...]:
    """Who is to have been asked by now.

    Where nobody can be late a spare is of use only in the place of another.

    Args:
        lost: clients that have failed, or whose update will be refused for itself.
    """
    spares = plan.spares if rules.can_be_late else plan.spares[: len(lost)]
    return (*plan.members, *spares)


def closing(
    plan: RoundPlan,
    arrived: Mapping[int, bool],
    waited: float,
    durations: Sequence[float],
    rules: Rules,
) -> Literal["wait", "close"]:
    """Whether a round goes on to its mean without those that are still awaited.

    Args:
        arrived: client -> whether its update is sound: will not be refused for itself.
        waited: seconds since the round was opened.
        durations: seconds that updates have taken, of this round and of earlier ones.
    """
    sound = [client for client, is_sound in arrived.items() if is_sound]
    if plan.spares and len(counted(plan, sound)) == len(plan.members):
        return "close"
    has_quorum = len(sound) >= rules.quorum
    deadline = round_deadline(durations, rules) if has_quorum else rules.timeout
    return "close" if rules.can_be_late and waited > deadline else "wait"


def round_deadline(durations: Sequence[float], rules: Rules) -> float:
    """Seconds that a round waits for stragglers: median + factor x MAD of the durations.

    The median absolute deviation is scaled by 1.4826, so that it is the standard deviation of
    normal durations, and is at least a tenth of the median: equal durations are no promise. With
    fewer than three durations the longest deadline holds.
    """
    if len(durations) < 3:
        return rules.timeout
    median = float(np.median(durations))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(durations) - median)))
    late = median + rules.straggler_factor * max(deviation, median / 10)
    return min(rules.timeout, max(rules.timeout_min, late))


def merges(
    sound: int, since_first: float, waited: float, durations: Sequence[float], rules: Rules
) -> bool:
    """Whether an asynchronous merge closes with what has come; the others come in a later one.

    Args:
        sound: updates that will not be refused, late ones too.
        since_first: seconds since there has been one.
        waited: seconds since the merge was opened.
    """
    assert rules.merging is not None
    if not sound:
        return waited > rules.timeout
    grace_over = since_first > grace(durations, rules.merging.slack, rules.timeout)
    return sound >= rules.merging.buffer or grace_over


def grace(durations: Sequence[float], slack: float, timeout: float) -> float:
    """Seconds that a merge waits for more once there is an update.

    Args:
        durations: seconds that updates have taken.
        slack: seconds that clients can go on training without an answer.
        timeout: most that it can be; what it is before a duration is known.
    """
    if not len(durations):
        return timeout
    return min(timeout, max(GRACE * float(np.median(durations)), slack))


def is_out_of_reach(plan: RoundPlan, failed: Collection[int], rules: Rules) -> bool:
    """Whether those that have failed leave fewer clients than the quorum."""
    return len(plan.cohort) - len(failed) < rules.quorum


def counted(plan: RoundPlan, sound: Collection[int]) -> list[int]:
    """Clients of a round that are averaged: the members of its cohort, and in the place of those
    that are missing the spares, in their order. No more than the cohort has members.

    Args:
        sound: clients whose updates are here, and not refused.
    """
    order = (*plan.members, *plan.spares)
    return [client for client in order if client in sound][: len(plan.members)]


def averaged(plan: RoundPlan, sound: Mapping[int, Update]) -> dict[int, Update]:
    """Of the updates that are not refused, by client, those that go into the mean: a late one too,
    which is in nobody's place.
    """
    if not plan.spares:
        return dict(sound)
    chosen = counted(plan, [c for c, update in sound.items() if update.round == plan.round])
    return {c: u for c, u in sound.items() if c in chosen or u.round != plan.round}


def weight(update: Update, plan: RoundPlan, rules: Rules) -> float:
    """What an update counts for in the mean: its tokens, fewer if it is late."""
    late = plan.round - update.round
    return update.num_tokens * (1.0 + late) ** -(rules.staleness_exponent or 0.0)


def share(weights: Sequence[float], rules: Rules) -> float:
    """How much of a synchronous round's step a mean of these weights takes, 1 at the most.

    It is in proportion, so that a cohort's updates step as far in several merges as in one.
    """
    if rules.merging is None:
        return 1.0
    return min(1.0, sum(weights) / (rules.merging.step_tokens * rules.merging.local_steps))


def scale(count: int, rules: Rules) -> float:
    """Factor on the mean pseudo-gradient of `count` clients; of a merge, of a whole cohort."""
    return factor(rules.scaling, rules.merging.cohort if rules.merging else count)


def factor(scaling: Scaling, count: int) -> float:
    """On the mean pseudo-gradient of `count` clients: 1, sqrt(count) or count."""
    return {"none": 1.0, "sqrt": math.sqrt(count), "linear": float(count)}[scaling]


def oldest_taken(round_number: int, rules: Rules) -> int:
    """First round whose updates count in this one; those of earlier rounds nobody awaits."""
    return round_number - (0 if rules.staleness_exponent is None else rules.max_staleness)


def assign(
    clients: Collection[int],
    hosts: Mapping[str, Collection[int]],
    busy: Collection[str],
    tried: Mapping[int, Collection[str]],
) -> dict[str, list[int]]:
    """Spread clients over the idle nodes that have their data, evenly.

    Args:
        clients: to be placed; those with the fewest hosts choose first.
        hosts: node -> clients whose data it has.
        busy: nodes that can take nobody now.
        tried: client -> nodes where it has failed; tried again only where there is no other, so a
            client rather waits for a busy node that it has not tried.

    Returns:
        node -> its new clients in ascending order; who cannot be placed now is left out.
    """
    able: dict[int, list[str]] = {client: [] for client in clients}
    for node in sorted(hosts):
        for client in able.keys() & hosts[node]:
            able[client].append(node)
    placed: dict[str, list[int]] = {}
    for client in sorted(able, key=lambda c: (len(able[c]), c)):
        fresh = [n for n in able[client] if n not in tried.get(client, ())]
        if choices := [n for n in fresh or able[client] if n not in busy]:
            node = min(choices, key=lambda n: len(placed.get(n, ())))
            placed.setdefault(node, []).append(client)
    return {node: sorted(own) for node, own in placed.items()}


def paced_steps(
    steps: int, clients: Collection[int], speeds: Mapping[int, float]
) -> dict[int, int]:
    """Steps of each client of an asynchronous run, in proportion to its speed: all come about as
    often, and none is ever far behind. Nobody takes steps from another by what it says of itself.

    Args:
        steps: of a client of median speed, or of one not measured yet.
        speeds: tokens per second, of all clients that have been measured.
    """
    known = sorted(speeds.values())
    median = known[(len(known) - 1) // 2] if known else 1.0
    paces = {c: min(MOST_PACE, max(LEAST_PACE, speeds.get(c, median) / median)) for c in clients}
    return {client: max(1, round(steps * pace)) for client, pace in paces.items()}


def steps_by_speed(
    steps: int, cohort: Collection[int], speeds: Mapping[int, float]
) -> dict[int, int]:
    """Steps of each client such that none takes longer than the median one.

    Who is slower than the median takes fewer steps in proportion, at least one. Weights are the
    tokens trained on, so such a client also counts for less. Of two in the middle the slower one is
    the median: so it lies between honest speeds whatever a single client says of its own.

    Args:
        steps: of a client of median speed, or of one not measured yet.
        speeds: client -> tokens per second.
    """
    known = [speeds[client] for client in cohort if client in speeds]
    if not known:
        return dict.fromkeys(cohort, steps)
    median = sorted(known)[(len(known) - 1) // 2]
    return {
        client: max(1, round(steps * min(1.0, speeds.get(client, median) / median)))
        for client in cohort
    }
