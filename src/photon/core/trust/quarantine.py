"""Clients that fail repeatedly are left out for some rounds, and come back by themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from photon.core.trust.reputation import Reputation
from photon.core.trust.scores import ScoreRules


def after_round(
    before: Reputation,
    round_number: int,
    accepted: Collection[int],
    refused: Collection[int],
    rules: ScoreRules,
) -> Reputation:
    """Who has failed how often in a row after a round, and who is left out until when.

    Who comes back from quarantine and fails at once is left out again.
    """
    failures = {c: n for c, n in before.failures.items() if c not in accepted}
    quarantined = {c: last for c, last in before.quarantined.items() if last > round_number}
    for client in sorted(refused):
        failures[client] = failures.get(client, 0) + 1
        if failures[client] >= rules.failures:
            failures[client] = rules.failures - 1
            quarantined[client] = round_number + rules.rounds
    return replace(before, failures=failures, quarantined=quarantined)


def admitted(
    here: Sequence[int], quarantined: Mapping[int, int], round_number: int, needed: int
) -> list[int]:
    """Who of the clients that are here may take part: all but those in quarantine, of whom as many
    come back early as the round needs, the next to be released first.
    """
    out = {client for client, last in quarantined.items() if last >= round_number}
    free = [client for client in here if client not in out]
    back = sorted((c for c in here if c in out), key=lambda c: (quarantined[c], c))
    return sorted([*free, *back[: max(0, needed - len(free))]])
