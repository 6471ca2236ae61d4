"""Documents of a Hugging Face dataset, streamed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from photon.data.hub_access import why_unreachable
from photon.data.prepare.corpus import Document
from photon.data.prepare.readers import Columns, missing_column, optional, record_text
from photon.errors import DataError

ALIASES = {"c4": "allenai/c4"}


class HubSource:
    """One split of a dataset on the hub, as a single file of records.

    Args:
        path, name: of the dataset and of its configuration (of C4: the language).
        split: `train` or `validation`.
        open_records: gives the records from a number on; the `datasets` library in streaming mode
            if not given.
    """

    def __init__(
        self,
        path: str,
        name: str | None,
        split: str,
        columns: Columns,
        open_records: Callable[[int], Iterable[dict[str, Any]]] | None = None,
    ) -> None:
        self.path, self.name, self.split = ALIASES.get(path, path), name, split
        self.columns = columns
        self._open = open_records or self._stream

    @property
    def title(self) -> str:
        return "/".join(part for part in (self.path, self.name, self.split) if part)

    def describe(self) -> list[dict[str, Any]]:
        return [{"file": self.title, "bytes": None, "mtime_ns": None}]

    def num_files(self) -> int:
        return 1

    def share(self, order: Sequence[int], reading: int) -> float | None:
        return None

    def documents(self, file: int, start: int) -> Iterator[tuple[int, Document]]:
        """Documents from a number on.

        Raises:
            DataError: no such dataset, configuration or split, no such column, no network.
        """
        records = self._records(start)
        for place, record in enumerate(records, start + 1):
            where = f"{self.title}:{place}"
            text = record_text(record, self.columns.text, where)
            column = self.columns.source
            origin = (self.name or self.path) if column is None else None
            source = origin or record_text(record, column or "", where)
            yield place, Document(where, source, text)

    def _records(self, start: int) -> Iterator[dict[str, Any]]:
        """The records; whatever the library raises while it fetches them becomes one line."""
        try:
            yield from self._open(start)
        except DataError:
            raise
        except Exception as error:  # the library lets those of its transports through
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{self.title}: no such folder here, and the Hugging Face hub does not give it "
                f"({reason}); check the name and network, or name a local folder with --source"
            ) from error

    def _stream(self, start: int) -> Iterable[dict[str, Any]]:
        here = f"{self.path}: no such folder here; from the Hugging Face hub it"
        datasets = optional("datasets", here)
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error says it once
        if reason := why_unreachable():
            raise ConnectionError(reason)
        stream = datasets.load_dataset(self.path, self.name, split=self.split, streaming=True)
        known = stream.column_names
        for column in (self.columns.text, self.columns.source):
            if known and column is not None and column not in known:
                raise missing_column(self.title, column, known)
        return stream.skip(start) if start else stream


def has_split(source: HubSource) -> bool:
    """Whether the dataset has such a split with a record in it."""
    try:
        return bool(list(islice(source.documents(0, 0), 1)))
    except DataError as error:
        if isinstance(error.__cause__, ValueError) and "split" in str(error.__cause__).lower():
            return False
        raise
