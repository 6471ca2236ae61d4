"""Stretches of documents: long texts are cut where needed, and no text is in two of the pieces.

Where to cut is said in shares of a text's length, before the text is read; the cut itself is then
at the nearest end of a paragraph, a line or a word. Neighbours hold the same cut, so that nothing
is lost or doubled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from photon.data.prepare.corpus import Document

STRETCH = 2048
"""A document is long if the end that it gives to validation has this many characters."""
_SLACK = 0.05
_NEAR = 0.1
"""How far from the wanted size what is held out may be before a short document is cut."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place in a text.

    Attributes:
        share: of the text's length that lies before it.
        slack: share of the length within which an end of a paragraph may be preferred.
    """

    share: float
    slack: float = 0.0

    def place(self, text: str) -> int:
        """Characters before the cut."""
        at, slack = round(self.share * len(text)), int(self.slack * len(text))
        for end in ("\n\n", "\n", " "):
            before = text.rfind(end, at - slack, at)
            after = text.find(end, at, at + slack)
            found = [place + len(end) for place in (before, after) if place >= 0]
            if slack and found:
                return min(found, key=lambda place: abs(place - at))
        return at


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a document, from one cut to another.

    Attributes:
        index: number of the document.
        length: of the whole document, in any unit.
    """

    index: int
    source: str
    length: int
    begin: Cut = Cut(0.0)
    end: Cut = Cut(1.0)

    @property
    def size(self) -> int:
        return round((self.end.share - self.begin.share) * self.length)

    def split(self, share: float) -> tuple[Stretch, Stretch]:
        """Two stretches, the first with a share of this one's text."""
        width = self.end.share - self.begin.share
        cut = Cut(self.begin.share + share * width, _SLACK * min(share, 1 - share) * width)
        return replace(self, end=cut), replace(self, begin=cut)

    def of(self, document: Document) -> Document:
        """The part of the document itself."""
        begin, end = self.begin.place(document.text), self.end.place(document.text)
        if end - begin == len(document.text):
            return document
        name = f"{document.name}[{begin}:{end}]"
        return Document(name, document.source, document.text[begin:end], continued=begin > 0)


def hold_out(
    stretches: Sequence[Stretch], fraction: float, *, every_source: bool = False
) -> tuple[list[Stretch], list[Stretch]]:
    """What is kept, and what is held out: the ends of long texts, and short texts whole.

    Of the short ones the first are held out, and one is cut where whole ones do not give the
    fraction.

    Args:
        stretches: in random order.
        every_source: keep something of each source, if need be by cutting a short text.
    """
    counts = Counter(stretch.source for stretch in stretches)
    kept: list[Stretch] = []
    held: list[Stretch] = []
    short: list[Stretch] = []
    for stretch in stretches:
        alone = every_source and counts[stretch.source] == 1
        if alone or fraction * stretch.size >= STRETCH:
            rest, end = stretch.split(1 - fraction)
            kept.append(rest)
            held.append(end)
        else:
            short.append(stretch)
    target = missing = fraction * sum(stretch.size for stretch in short)
    for stretch in short:
        last = every_source and counts[stretch.source] == 1
        if last or missing <= _NEAR * target:
            kept.append(stretch)
        elif stretch.size <= missing + _NEAR * target:
            held.append(stretch)
            counts[stretch.source] -= 1
            missing -= stretch.size
        else:
            rest, end = stretch.split(1 - missing / stretch.size)
            kept.append(rest)
            held.append(end)
            missing = 0.0
    return kept, held


def cut_to_shares(stretches: Sequence[Stretch], shares: Sequence[float]) -> list[list[Stretch]]:
    """Lay stretches end to end and cut the line in proportion to some shares.

    Args:
        shares: [K], sums to 1.

    Returns:
        For each share what lies on its piece of the line; contiguous.
    """
    total = sum(stretch.size for stretch in stretches)
    ends = np.cumsum(shares) * total
    tolerance = min(shares) * total / 100
    parts: list[list[Stretch]] = [[] for _ in shares]
    part, at = 0, 0.0
    for stretch in stretches:
        rest = stretch
        while part + 1 < len(parts) and at + rest.size > ends[part] + tolerance:
            room = ends[part] - at
            if room > tolerance:
                first, rest = rest.split(room / rest.size)
                parts[part].append(first)
                at = ends[part]
            part += 1
        parts[part].append(rest)
        at += rest.size
    return parts
