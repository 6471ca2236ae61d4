"""What earlier rounds say of updates and of clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Reputation:
    """What a run that scores its updates remembers of them; nothing where none are scored.

    Attributes:
        gains, cosines: scores of the updates accepted lately, oldest first.
        failures: client -> rounds in a row in which its update was refused.
        quarantined: client -> last round that it is left out of.
    """

    gains: tuple[float, ...] = ()
    cosines: tuple[float, ...] = ()
    failures: Mapping[int, int] = field(default_factory=dict)
    quarantined: Mapping[int, int] = field(default_factory=dict)
