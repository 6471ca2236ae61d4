"""What a section of the page is made of, and how it is written. Pure functions."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from records import Record, is_typed

Logs = Callable[[str], list[Record]]
"""Name of a log -> its lines; none where there is none."""
WIDTH = 140
MOST_COMMANDS = 4
"""Of a provenance, that are shown; the log has them all."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure with its bar, and whether it holds: every value has to.

    Attributes:
        values: of each seed, pair or run; infinite where it diverged; empty: not measured.
        at_least: the bar is the least that is allowed; else the most.
        form: format of a value.
        each: what there is a value of.
        spread: least and most of what the only value is the median of.
    """

    what: str
    values: Sequence[float]
    bar: float | None = None
    at_least: bool = False
    form: str = ".3f"
    each: str = "run"
    unit: str = ""
    spread: tuple[float, float] | None = None

    @property
    def holds(self) -> bool | None:
        """None without a bar, or without a value."""
        if self.bar is None or not self.values:
            return None
        return min(self.values) >= self.bar if self.at_least else max(self.values) <= self.bar

    @property
    def figure(self) -> str:
        ends = dict.fromkeys(self._shown(end(self.values)) for end in (min, max) if self.values)
        around = f" ({' .. '.join(map(self._shown, self.spread))})" if self.spread else ""
        return " .. ".join(ends) + around or "not measured"

    def row(self) -> list[str]:
        least = "at least " if self.at_least else "at most "
        bar = "" if self.bar is None else least + self._shown(self.bar)
        spread = counted(len(self.values), self.each) if self.values else ""
        return [self.what, self.figure, spread, bar, verdict(self.holds)]

    def _shown(self, value: float) -> str:
        return f"{value:{self.form}}{self.unit}" if math.isfinite(value) else "diverged"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it.

    Attributes:
        measured: what was measured, in words.
        misleads: where a reader may take the numbers for more than they are.
        records: whose provenance is told.
        tables: Markdown.
        images: file in `docs/images` -> what it shows.
        about: whose negative results belong here (`tried.jsonl`).
    """

    title: str
    measured: str
    misleads: str
    commands: Sequence[str]
    records: Sequence[Record]
    claims: Sequence[Claim] = ()
    tables: Sequence[str] = ()
    images: Sequence[tuple[str, str]] = ()
    about: str = ""


def rendered(section: Section, logs: Logs) -> str:
    """Its Markdown."""
    rows = [claim.row() for claim in section.claims]
    parts = [
        f"## {section.title}",
        paragraph(section.measured),
        table(["claim", "figure", "of", "bar", "holds"], rows) if rows else "",
        *section.tables,
        *(f"![{shows}](images/{name})" for name, shows in section.images),
        "\n".join(f"    python benchmarks/{command}" for command in section.commands),
        paragraph(f"**Where these numbers mislead.** {section.misleads}"),
        tried(section.about, logs("tried")) if section.about else "",
        provenance(section.records),
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def paragraph(text: str) -> str:
    words = " ".join(text.split())
    return textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_row(head), "|---" * len(head) + "|", *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def verdict(holds: bool | None) -> str:
    return "" if holds is None else "yes" if holds else "**no**"


def counted(number: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:+.{digits}f} %"


def tried(about: str, records: Iterable[Record]) -> str:
    """What was tried and did not help, or was tried on a small scale."""
    found = [f"- {one['what']}: {one['outcome']}." for one in records if one["about"] == about]
    return "\n".join(["Tried besides:\n", *found]) if found else ""


def provenance(records: Iterable[Record]) -> str:
    """Who made the lines: machine, versions, commit and commands of each group of lines."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_origin(record), []).append(record)
    rows = [
        f"- {counted(len(own), 'line')}: {told}{_commands(own)}." for told, own in groups.items()
    ]
    return "\n".join(["Made of:\n", *rows]) if rows else "Not run yet."


def _origin(record: Record) -> str:
    """Where a line is from; older lines do not have it all."""
    made = {**record, **record.get("made", {})}
    words = [made["note"]] if is_typed(record) else []
    words += [
        f"{name} {made[name]}" for name in ("commit", "python", "torch", "photon") if made.get(name)
    ]
    cores = f"{made['cores']} cores" if "cores" in record else ""
    words += [one for one in (made.get("machine"), cores) if one]
    lacking = [name for name in ("commit", "machine") if not made.get(name)]
    words += [f"{' and '.join(lacking)} not recorded"] if lacking else []
    return ", ".join(words)


def _commands(records: Iterable[Record]) -> str:
    """Those that wrote the lines, where these say it."""
    told = (record.get("made", {}).get("command") for record in records)
    found = list(dict.fromkeys(f"`{command}`" for command in told if command))
    more = [f"{len(found) - MOST_COMMANDS} more"] if len(found) > MOST_COMMANDS else []
    return "; by " + ", ".join([*found[:MOST_COMMANDS], *more]) if found else ""
