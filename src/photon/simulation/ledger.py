"""Where the time of all devices went, and what of their work came to something."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

State = Literal["idle", "download", "node", "train", "upload", "away"]
CAUSES = {
    "train": "training",
    "node": "around training",
    "download": "download",
    "upload": "upload",
    "slowest": "the slowest client",
    "server": "the server",
    "away": "failures",
    "not_asked": "not asked",
}
"""What a device's time goes into, and how it is called for people.

`node`: it loads, encodes and saves; `slowest`: it has sent its update, and others are still at
theirs; `server`: nobody is at one;
`not_asked`: it is not in the cohort.
"""


@dataclass(frozen=True, slots=True)
class _Spell:
    """What a device is at.

    Attributes:
        since, busy: virtual seconds when that began, and in which any device was busy until then.
        round: for which it was asked last.
        owes: whether it is away and others wait for it.
        idle: seconds by cause since it has trained last; some may turn out to be of training.
    """

    state: State = "idle"
    since: float = 0.0
    busy: float = 0.0
    round: int = 0
    owes: bool = False
    idle: Mapping[str, float] = field(default_factory=dict)


class Ledger:
    """Takes what devices turn to, in the order of time; all seconds are virtual.

    Attributes:
        tokens: trained, whatever became of them.
    """

    def __init__(self, devices: Collection[str]) -> None:
        self.tokens = 0
        self._spells = {name: _Spell() for name in devices}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._now = self._busy_seconds = 0.0
        self._busy = 0
        self._opened: dict[int, tuple[float, float]] = {}

    def turn(self, name: str, state: State, now: float, asked_for: int | None = None) -> None:
        """From now on a device is at something else.

        Args:
            asked_for: the round that it is asked for, where it begins one.
        """
        self._pass(now)
        if asked_for is not None:
            self._opened.setdefault(asked_for, (now, self._busy_seconds))
        spell = self._spells[name]
        parts = self._parts(spell)
        for cause, seconds in parts.items():
            self._seconds[cause] += seconds
        idle = {k: spell.idle.get(k, 0.0) + s for k, s in parts.items() if k != "away"}
        owes = state == "away" and (_is_busy(spell.state) or spell.owes)
        self._busy += (_is_busy(state) or owes) - (_is_busy(spell.state) or spell.owes)
        self._spells[name] = _Spell(
            state,
            now,
            self._busy_seconds,
            spell.round if asked_for is None else asked_for,
            owes,
            {} if spell.state == "train" else {**spell.idle, **idle},
        )

    def owe(self, name: str, now: float) -> None:
        """Others wait for a device that is away: it was asked before, or is asked meanwhile."""
        self._pass(now)
        spell = self._spells[name]
        self._busy += not spell.owes
        self._spells[name] = replace(spell, owes=True)

    def trained_ahead(self, name: str, seconds: float) -> None:
        """So much of what looked like waiting since its last training was training."""
        spell = self._spells[name]
        share = min(1.0, seconds / max(sum(spell.idle.values()), 1e-9))
        for cause, waited in spell.idle.items():
            self._seconds[cause] -= share * waited
            self._seconds["train"] += share * waited
        self._spells[name] = replace(spell, idle={})

    def report(self, now: float, merged: int, under_way: int = 0) -> dict[str, Any]:
        """The ledger's sum, as JSON.

        Args:
            merged: tokens of the updates that reached the model.
            under_way: tokens trained on in what has not ended.
        """
        self._pass(now)
        trained = self.tokens + under_way
        seconds = defaultdict(float, self._seconds)
        for spell in self._spells.values():
            for cause, its in self._parts(spell).items():
                seconds[cause] += its
        devices = len(self._spells)
        return {
            "devices": devices,
            "seconds": now,
            "utilization": seconds["train"] / (devices * now) if now else 0.0,
            "goodput": merged / trained if trained else 0.0,
            "tokens_trained": trained,
            "tokens_merged": merged,
            "device_seconds": {cause: seconds[cause] for cause in CAUSES},
        }

    def _pass(self, now: float) -> None:
        if self._busy:
            self._busy_seconds += now - self._now
        self._now = now

    def _parts(self, spell: _Spell) -> dict[str, float]:
        """Seconds of what a device has been at until now, by cause."""
        if spell.state != "idle":
            return {spell.state: self._now - spell.since}
        end, busy = self._opened.get(spell.round + 1, (self._now, self._busy_seconds))
        end, busy = max(end, spell.since), max(busy, spell.busy)
        return {
            "slowest": busy - spell.busy,
            "server": end - spell.since - (busy - spell.busy),
            "not_asked": self._now - end,
        }


def _is_busy(state: State) -> bool:
    return state not in ("idle", "away")
