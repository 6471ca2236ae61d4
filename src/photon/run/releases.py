"""What a run has released, on disk before anybody can see it: a crash or a step back to an earlier
round takes nothing back.

Each line of `privacy/releases.jsonl` is one sum that got noise: its round, what it was made of, the
key of the noise, and the `Release`; or, where updates reach the server with noise of their clients,
that each client may be asked for one more. The first line may hold what was released, and asked
for, up to a round, before the file was there: by the run that this one is a copy of, or because the
file was lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from photon.config.base import Closed
from photon.errors import CorruptCheckpoint
from photon.files import new_file, sync
from photon.privacy.accounting import Count, Release, Told, count_of, told_of
from photon.wire.facts import first_fault

FOLDER = "privacy"
"""Of a run: its key and its ledger."""
NAME = "releases.jsonl"


Noise = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Clients = Annotated[int, Field(strict=True, ge=0)]


class Line(Closed):
    """A release."""

    round: Clients
    sum: str
    key: str
    noise: Noise
    pool: Clients
    cohort: Clients


class Asked(Closed):
    """Updates of a round that each client may be asked for."""

    round: Clients
    asked: Clients


class Before(Closed):
    """What was released up to a round: noise, pool, cohort, and how many; and updates asked for,
    but for files of older versions.
    """

    before: list[tuple[Noise, float, float, float]]
    round: Clients
    asked: Clients = 0


class Ledger:
    """Args:
    folder: of the run's secrets; made if it is not there.
    before: what the state that the run goes on from has released.
    since: the round of that state.
    key: name of the key that the noise is made with: what another made is another release.
    asked: updates of one client that this state counts.

    Raises:
        CorruptCheckpoint: a line is not as it was written, or the file is older than the state.
    """

    def __init__(self, folder: Path, before: Told, since: int, key: str, asked: int = 0) -> None:
        self.path, self.key = folder / NAME, key
        folder.mkdir(parents=True, exist_ok=True)
        self._lines: list[dict[str, Any]] = _read(self.path)
        if not self._lines and (before or asked):
            noted = {"asked": asked} if asked else {}
            self._lines.append({"before": before, "round": since, **noted})
        if fault := _lack(self._lines, before, (), asked):
            raise _older(self.path, fault)
        with new_file(self.path) as file:  # without a line that a crash has torn
            file.write("".join(json.dumps(line) + "\n" for line in self._lines).encode())

    def has(self, round_number: int, identity: str | None = None) -> bool:
        """Whether a round has been released: with these updates, or with any."""
        return any(
            line["round"] == round_number
            and line.get("key") == self.key
            and identity in (None, line["sum"])
            for line in self._lines
        )

    def add(self, round_number: int, identity: str, release: Release) -> None:
        """Note a release, durably."""
        self._append({"round": round_number, "sum": identity, "key": self.key, **release._asdict()})

    def ask(self, round_number: int) -> None:
        """Note, durably, that each client may be asked for one more update."""
        self._append({"round": round_number, "asked": 1})

    def _append(self, line: dict[str, Any]) -> None:
        with open(self.path, "ab") as file:
            file.write((json.dumps(line) + "\n").encode())
            sync(file)
        self._lines.append(line)

    def count(self) -> Count:
        """All that has been released."""
        return _count(self._lines)

    def asked(self) -> int:
        """Updates that one client may have sent at the most."""
        return _asked(self._lines)

    def told(self) -> Told:
        """The same, as a state holds it."""
        return told_of(self.count())


def require_rounds(path: Path, rounds: Iterable[int], since: int, asked: int) -> None:
    """Before a run goes on, perhaps from an earlier round, whose state does not count what came
    after it.

    Args:
        rounds: that were committed.
        since: the round that it goes on from.
        asked: updates of one client that a later checkpoint counts.

    Raises:
        CorruptCheckpoint: the ledger is damaged, or lacks one of these rounds; it may be missing
            where none is later than `since`.
    """
    lines = _read(path) or [{"before": (), "round": since}]
    if fault := _lack(lines, (), rounds, asked):
        raise _older(path, fault)


def _older(path: Path, fault: str) -> CorruptCheckpoint:
    what = "it is an older one" if path.exists() else "it is missing"
    return CorruptCheckpoint(
        f"{path}: {fault}: {what}; bring the newest back: without it epsilon would be less than "
        "what has been spent. Only from its newest checkpoint, which counts all, may a run go on "
        "without the file"
    )


def lack(path: Path, told: Told, rounds: Iterable[int], asked: int = 0) -> str | None:
    """What a ledger lacks, as one that an older backup has replaced does; None: nothing.

    Args:
        told, asked: what a checkpoint counts.
        rounds: that were committed.

    Raises:
        CorruptCheckpoint: a line is not as it was written.
    """
    return _lack(_read(path), told, rounds, asked)


def _lack(
    lines: Sequence[dict[str, Any]], told: Told, rounds: Iterable[int], asked: int
) -> str | None:
    if lost := (count_of(told) - _count(lines)).total():
        return f"lacks {lost:,} of the releases that the checkpoint counts"
    if (lost := asked - _asked(lines)) > 0:
        return f"lacks {lost:,} of the updates of a client that the checkpoint counts"
    # Of what was before it knows the number, and of which rounds at the most.
    first = max((line["round"] for line in lines if "before" in line), default=0)
    known = {line["round"] for line in lines if "sum" in line or "before" in line}
    missing = sorted(number for number in set(rounds) - known if number > first)
    return f"lacks round {missing[0]}, which was committed" if missing else None


def _count(lines: Iterable[dict[str, Any]]) -> Counter[Release]:
    found: Counter[Release] = Counter()
    for line in lines:
        if "before" in line:
            found += count_of(line["before"])
        elif "sum" in line:
            found[Release(line["noise"], line["pool"], line["cohort"])] += 1
    return found


def _asked(lines: Sequence[dict[str, Any]]) -> int:
    """Updates asked of a client; older versions noted none, of their rounds releases count."""
    noted = (at for at, line in enumerate(lines) if "asked" in line)
    first = next(noted, len(lines))
    return _count(lines[:first]).total() + sum(line["asked"] for line in lines[first:]
                                               if "asked" in line)  # fmt: skip


def _read(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; the last may be torn: then its noise was not used yet.

    Raises:
        CorruptCheckpoint: another one is not as it was written.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [_line(path, number, line) for number, line in enumerate(whole, start=1)]


def _line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
        keys = found if isinstance(found, dict) else ()
        kind = Before if "before" in keys else Asked if "asked" in keys else Line
        kind.model_validate(found)
        return found
    except (ValueError, RecursionError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else "no JSON"
        raise CorruptCheckpoint(
            f"{path}: line {number} is no release ({why}); bring the file back from a backup: "
            "without it epsilon would be less than what has been spent"
        ) from None
