"""The one pass: routes to encoded documents to the folders of a data set, resumable at any moment.

A journal says how far everything on disk belongs together: the position in the source, and that of
each folder. What lies beyond it is cut off when preparation goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from photon.data.prepare.encode import Encoder, encode_in_order
from photon.data.prepare.part import Part
from photon.data.prepare.routing import Position, Route, Routed
from photon.errors import DataError, storing
from photon.files import new_file

JOURNAL = "journal.msgpack"
JOURNAL_SECONDS = 10.0
REPORT_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """What is made of the documents' tokens.

    Attributes:
        clients: their numbers; each gets a part `train` and a part `validation`.
        sequence_length: targets of a row.
        wrap: rows run on over documents.
        most_rows: by part; a full part takes no more.
        most_train_rows: of all clients together; None: any number.
    """

    clients: range
    sequence_length: int
    wrap: bool = True
    most_rows: Mapping[str, int] = field(default_factory=dict)
    most_train_rows: int | None = None

    @property
    def parts(self) -> list[str]:
        own = [f"client_{c}/{split}" for c in self.clients for split in ("train", "validation")]
        return ["validation", *own]


@dataclass(frozen=True, slots=True)
class Phase:
    """A route and the parts that end it when they are all full; none: it ends by itself."""

    route: Route
    until: tuple[str, ...] = ()


@dataclass(slots=True)
class Totals:
    """What became of the source: nothing is lost without being counted.

    Attributes:
        documents: read; documents + stretches = written + empty + skipped.
        stretches: of documents that were cut, those after the first.
        empty: documents and stretches without any text.
        skipped: documents and stretches whose part was full.
        cut_tokens: of documents that filled their part, the tokens beyond it.
        text_tokens: written, separators included.
    """

    documents: int = 0
    stretches: int = 0
    empty: int = 0
    skipped: int = 0
    written: int = 0
    cut_tokens: int = 0
    text_tokens: int = 0


LEAST_SHARE = 0.01
"""Share of the whole after which its end is foretold: the first book of many says little."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far preparation is.

    Attributes:
        documents, tokens: so far.
        new_documents, new_tokens, seconds: since this process began.
        share: of the whole that is done, and that was done when this process began; None: unknown.
    """

    documents: int
    tokens: int
    new_documents: int
    new_tokens: int
    seconds: float
    share: float | None
    share_before: float | None

    @property
    def seconds_left(self) -> float | None:
        """At the speed of this process so far; None until that can be told."""
        if self.share is None:
            return None
        done = self.share - (self.share_before or 0.0)
        if done < LEAST_SHARE:
            return None
        return max(0.0, 1.0 - self.share) * self.seconds / done


class Pipeline:
    """A data set in the making, in a folder of its own.

    Attributes:
        ends: of each finished phase, the position behind the last document that was taken.

    Args:
        folder: where its parts lie, and the journal.
        vocab_size: of the tokenizer.
        describe: what was asked for, and of the source's files those that were read up to some
            positions; the journal keeps it for whoever takes the folder up again.

    Raises:
        DataError: the journal is unreadable.
    """

    def __init__(
        self,
        folder: Path,
        spec: DatasetSpec,
        vocab_size: int,
        describe: Callable[[Sequence[Position | None]], Mapping[str, Any]],
    ) -> None:
        self.folder, self.spec, self._describe = folder, spec, describe
        blank = {"phase": 0, "position": None, "ends": [], "totals": {}, "parts": {}}
        journal = read_journal(folder) or blank
        self.phase, self.position = journal["phase"], journal["position"]
        self.ends: list[Position | None] = journal["ends"]
        self.totals = Totals(**journal["totals"])
        self.parts = {
            name: Part(
                folder / name,
                spec.sequence_length,
                vocab_size,
                spec.wrap,
                journal["parts"].get(name),
            )
            for name in spec.parts
        }
        trained = [part for name, part in self.parts.items() if name.endswith("/train")]
        self._train_rows = sum(part.rows.rows for part in trained)  # of many: counted on
        self._begun = time.monotonic()
        self._share_before: float | None = None
        self._before = (self.totals.documents, self.totals.text_tokens)
        self._saved = self._reported = self._begun

    def run(
        self,
        phases: Sequence[Phase],
        encoder: Encoder,
        report: Callable[[Progress], None],
    ) -> None:
        """Take every document of every phase, going on after the last journal entry.

        Args:
            report: called some times a second.
        """
        while self.phase < len(phases):
            phase = phases[self.phase]
            position = tuple(self.position or phase.route.start())
            routed = phase.route.documents(position)
            for item, tokens in encode_in_order(routed, encoder, self._wanted):
                if phase.until and all(self._room(name) == 0 for name in phase.until):
                    break
                self._take(item, tokens, encoder)
                self.position = item.behind
                self._when_due(phase.route, report)
            self.ends.append(self.position)
            self.phase, self.position = self.phase + 1, None

    def finish(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The manifests of all parts, written; the journal allows to do it again.

        Raises:
            DataError: a part has not even one row.
        """
        for name, part in self.parts.items():
            if part.rows.rows < 1:
                remedy = "; dataset.prepare.validation_fraction holds out more"
                raise DataError(
                    f"{name}: {part.rows.text_tokens} tokens do not fill one row of "
                    f"{self.spec.sequence_length} + 1; the text is too small for "
                    f"{len(self.spec.clients)} clients, this partition or this sequence length"
                    f"{remedy if name.endswith('validation') else ''}"
                )
            part.end()
        self.save()
        return {name: part.finish(facts) for name, part in self.parts.items()}

    def close(self) -> None:
        for part in self.parts.values():
            part.rows.close()

    def save(self) -> None:
        """Make what was taken so far durable."""
        entry = {
            "key": dict(self._describe([*self.ends, self.position])),
            "phase": self.phase,
            "position": self.position,
            "ends": self.ends,
            "totals": asdict(self.totals),
            "parts": {name: part.position() for name, part in self.parts.items()},
        }
        failure = "cannot write the journal"
        with storing(self.folder, failure), new_file(self.folder / JOURNAL) as file:
            file.write(msgpack.packb(entry) or b"")
        self._saved = time.monotonic()

    def _when_due(self, route: Route, report: Callable[[Progress], None]) -> None:
        now = time.monotonic()
        if now - self._saved >= JOURNAL_SECONDS:
            self.save()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            report(self._progress(route.share(self.position or ())))

    def _wanted(self, routed: Routed) -> bool:
        """Once a part is full it stays so: what is not wanted now will not be wanted later."""
        return bool(routed.document.text.strip()) and self._room(routed.place) != 0

    def _take(self, routed: Routed, tokens: np.ndarray | None, encoder: Encoder) -> None:
        totals, part = self.totals, self.parts[routed.place]
        totals.documents += not routed.document.continued
        totals.stretches += routed.document.continued
        if not routed.document.text.strip():
            totals.empty += 1
            return
        room = self._room(routed.place)
        if tokens is None or room == 0:
            totals.skipped += 1
            return
        kept = tokens if room is None else tokens[: self._tokens_for(part, room)]
        totals.cut_tokens += len(tokens) - len(kept)
        totals.text_tokens += len(kept)
        totals.written += 1
        text_bytes = len(routed.document.text.encode("utf-8", "surrogatepass"))
        if len(kept) < len(tokens):
            text_bytes = round(text_bytes * _share_of_text(kept, tokens, encoder))
        before = part.rows.rows
        part.add(routed, kept, text_bytes)
        if routed.place.endswith("/train"):
            self._train_rows += part.rows.rows - before

    def _room(self, name: str) -> int | None:
        """Rows that a part still takes; None: any number."""
        spec, rows = self.spec, self.parts[name].rows.rows
        rooms = [spec.most_rows[name] - rows] if name in spec.most_rows else []
        if spec.most_train_rows is not None and name.endswith("/train"):
            rooms.append(spec.most_train_rows - self._train_rows)
        return min(rooms, default=None)

    def _tokens_for(self, part: Part, rows: int) -> int:
        """How many tokens of a document fill a number of further rows exactly."""
        length = self.spec.sequence_length
        if not self.spec.wrap:
            return rows * length + 1
        return (part.rows.rows + rows) * length + 1 - part.rows.text_tokens

    def _progress(self, share: float | None) -> Progress:
        totals, (documents, tokens) = self.totals, self._before
        shares = [s for s in (share, self._share_of_rows()) if s is not None]
        done = max(shares, default=None)
        if self._share_before is None:
            self._share_before = done if documents else 0.0
        return Progress(
            totals.documents,
            totals.text_tokens,
            totals.documents - documents,
            totals.text_tokens - tokens,
            time.monotonic() - self._begun,
            done,
            self._share_before,
        )

    def _share_of_rows(self) -> float | None:
        limits = [n for name, n in self.spec.most_rows.items() if name.endswith("/train")]
        most = self.spec.most_train_rows or sum(limits)
        return self._train_rows / most if most else None


def _share_of_text(kept: np.ndarray, tokens: np.ndarray, encoder: Encoder) -> float:
    """How much of a document's text the first of its tokens stand for.

    Both are decoded, so that what a tokenizer normalizes away does not matter.
    """
    part, whole = (len(encoder.text(some.tolist()).encode()) for some in (kept, tokens))
    return part / whole if whole else len(kept) / len(tokens)


def read_journal(folder: Path) -> dict[str, Any] | None:
    """The last journal entry of an unfinished preparation, if there is one.

    Raises:
        DataError: it is unreadable.
    """
    path = folder / JOURNAL
    if not path.exists():
        return None
    try:
        return msgpack.unpackb(path.read_bytes())
    except (OSError, ValueError, msgpack.UnpackException) as error:
        raise DataError(
            f"{path}: unreadable ({error}); remove {folder} and prepare the data again"
        ) from error
