"""What the clients of a session agree on, before any of them masks a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from photon.config.federation import MOST_MASKED
from photon.errors import PayloadError
from photon.secure.fixed_point import Scale, scale

Sealed = Mapping[int, bytes]
"""Shares that a client has sealed for each other one, or others for it."""


class PublicKeys(NamedTuple):
    """What a client tells the others at first, 32 bytes each.

    Attributes:
        sealing: others seal shares for it with this one.
        masking: masks of pairs are agreed on with this one.
        commitment: to the secret of its own mask.
    """

    sealing: bytes
    masking: bytes
    commitment: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A session: one attempt at the sum of a round.

    Attributes:
        session: hexadecimal, drawn for it.
        clients: that have an update, in ascending order.
        cohort: clients that the scale has room for.
        threshold: fewest clients without which nothing is revealed.
        most_tokens: that any client can have trained on.
        reaches: of each tree of an update, the largest number of an honest client.
        alike: whether all clients count alike in the mean, whatever their tokens.
    """

    session: str
    run: str
    round: int
    base_digest: str
    clients: tuple[int, ...]
    cohort: int
    threshold: int
    most_tokens: int
    reaches: Mapping[str, float]
    alike: bool = False

    def fault(self, own: Collection[int], threshold: int) -> str | None:
        """Why a client does not take part, or None.

        The threshold must be more than half of the cohort: any two sets that large have a client in
        common, and that one answers only once.

        Args:
            own: clients that are asked.
            threshold: the fewest that its configuration asks for.
        """
        known = set(self.clients)
        if self.cohort > MOST_MASKED:
            return f"a cohort of {self.cohort:,}; at most {MOST_MASKED:,} are masked together"
        if len(known) < len(self.clients) or len(known) > self.cohort:
            return f"{len(self.clients)} clients of a cohort of {self.cohort}"
        if not set(own) <= known:
            return f"client {min(set(own) - known)} is not one of its clients"
        needed = max(2, threshold, self.cohort // 2 + 1)
        if self.threshold < needed:
            return f"a threshold of {self.threshold}; at least {needed} are needed"
        if self.threshold > len(known):
            return f"{len(known)} clients are below the threshold of {self.threshold}"
        if not all(0 < reach < math.inf for reach in self.reaches.values()) or self.most_tokens < 1:
            return "a scale of no numbers"
        return None

    def scale(self, tree: str) -> Scale:
        """Raises:
        PayloadError: nothing is said of such a tree.
        """
        if tree not in self.reaches:
            raise PayloadError(f"secure aggregation: no scale for {tree}")
        return scale(tree, self.reaches[tree], self.cohort)

    def share(self, tokens: int) -> float:
        """By which a client multiplies its numbers."""
        return 1.0 if self.alike else tokens / self.most_tokens

    def weight(self, clients: int, tokens: int) -> float:
        """One over the sum of the shares of so many clients, who have so many tokens together."""
        return 1.0 / clients if self.alike else self.most_tokens / tokens

    def context(self, keys: Mapping[int, PublicKeys]) -> bytes:
        """What all derived keys of the session depend on: if clients were told different terms, or
        different keys, their masks do not cancel.
        """
        said = [
            asdict(self),
            [[client, *(k.hex() for k in keys[client])] for client in sorted(keys)],
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
