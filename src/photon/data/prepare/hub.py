"""Documents of a Hugging Face dataset, streamed."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from photon.data.hub_access import first_line, why_unreachable
from photon.data.prepare.corpus import Document
from photon.data.prepare.readers import Columns, document_of, missing_column
from photon.errors import DataError, PhotonError, require_package

ALIASES = {"c4": "allenai/c4"}


class HubSource:
    """One split of a dataset on the hub, as a single file of records.

    Args:
        path, name: of the dataset and of its configuration (of C4: the language).
        split: `train` or `validation`.
    """

    def __init__(self, path: str, name: str | None, split: str, columns: Columns) -> None:
        self.path, self.name, self.split = ALIASES.get(path, path), name, split
        self.columns = columns

    @property
    def title(self) -> str:
        return "/".join(part for part in (self.path, self.name, self.split) if part)

    def num_files(self) -> int:
        return 1

    def size(self, file: int) -> int:
        return 1

    def share(self, order: Sequence[int], reading: int) -> float | None:
        return None

    def documents(self, file: int, start: int) -> Iterator[tuple[int, Document]]:
        """Documents from a number on.

        Raises:
            DataError: no such dataset, configuration or split, no such column, no network.
        """
        default = self.name or self.path
        for place, record in enumerate(self._records(start), start + 1):
            where = f"{self.title}:{place}"
            yield place, document_of(record, self.columns, default, where)

    def _records(self, start: int) -> Iterator[dict[str, Any]]:
        """The records; whatever the library raises while it fetches them becomes one line."""
        try:
            yield from self._stream(start)
        except PhotonError:
            raise
        except Exception as error:  # the library lets those of its transports through
            raise DataError(
                f"{self.title}: no such folder here, and the Hugging Face hub does not give it "
                f"({first_line(error)}); check the name and network, or name a local folder with "
                "--source"
            ) from error

    def _stream(self, start: int) -> Iterable[dict[str, Any]]:
        """The records from a number on, by the `datasets` library in streaming mode."""
        here = f"{self.path}: no such folder here; from the Hugging Face hub it"
        require_package("datasets", "data", f"{here} needs the package datasets")
        import datasets  # pyright: ignore[reportMissingImports]

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error says it once
        if reason := why_unreachable():
            raise ConnectionError(reason)
        stream = datasets.load_dataset(self.path, self.name, split=self.split, streaming=True)
        known = stream.column_names
        for column, key in self.columns.wanted().items():
            if known and column not in known:
                raise missing_column(self.title, column, known, key)
        return stream.skip(start) if start else stream


def has_split(source: HubSource) -> bool:
    """Whether the dataset has such a split with a record in it."""
    try:
        return bool(list(islice(source.documents(0, 0), 1)))
    except DataError as error:
        if isinstance(error.__cause__, ValueError) and "split" in str(error.__cause__).lower():
            return False
        raise
