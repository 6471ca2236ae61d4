"""Any text for a federation: which documents go where, in which order, with which tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from photon.config.prepare import PrepareConfig
from photon.data.apportion import apportion
from photon.data.paths import named_path
from photon.data.prepare.assemble import Inputs, Plan, assemble
from photon.data.prepare.corpus import Document
from photon.data.prepare.hub import HubSource, has_split
from photon.data.prepare.listing import LeftOut, SourceFile, by_reason, find_files, require_sound
from photon.data.prepare.partition import (
    VALIDATION,
    Placement,
    Rule,
    Sized,
    partition_stretches,
    source_shares,
)
from photon.data.prepare.pipeline import DatasetSpec, Phase, Progress
from photon.data.prepare.readers import ENDINGS, Columns
from photon.data.prepare.routing import ListedRoute, Position, Route, StreamRoute, text_digest
from photon.data.prepare.sampling import training_texts
from photon.data.prepare.sources import (
    LocalSource,
    Source,
    by_split,
    changed_file,
    require_readable,
    without_copies,
)
from photon.data.prepare.splits import Split, choose_splits
from photon.data.tokenizer import open_tokenizer, tokenizer_digest, tokenizer_file, train_tokenizer
from photon.errors import DataError
from photon.say import Say


def prepare_text(
    root: Path,
    keys: PrepareConfig,
    num_clients: int,
    sequence_length: int,
    say: Say = lambda line: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Prepare a source for a federation; see `assemble`.

    Raises:
        DataError: also where the source or the tokenizer is not usable.
    """
    work = _Work(keys, num_clients, sequence_length)
    return assemble(root, work.inputs(), lambda: work.plan(say), say, report)


def is_local(source: str) -> bool:
    """Whether a source is a path: it exists, or it does not look like a name on the hub."""
    if source.startswith((".", "/", "~")) or source.lower().endswith(("/", *ENDINGS)):
        return True
    return Path(source).exists() or source.count("/") > 1


@dataclass(frozen=True, slots=True)
class _Work:
    keys: PrepareConfig
    num_clients: int
    sequence_length: int

    @property
    def rule(self) -> Rule:
        keys = self.keys
        return Rule(keys.partition, self.num_clients, keys.seed, keys.alpha, keys.size_exponent,
                    keys.first_client)  # fmt: skip

    @property
    def clients(self) -> range:
        first = self.keys.first_client
        return range(first, first + self.num_clients)

    @property
    def columns(self) -> Columns:
        return Columns(self.keys.text_column, self.keys.source_column)

    @property
    def splits(self) -> tuple[Split, Split]:
        return choose_splits(self.keys.splits)

    def files(self) -> tuple[list[SourceFile], list[LeftOut]]:
        """Local files of the source, and those that are not read; none if it is on the hub."""
        assert self.keys.source is not None
        if not is_local(self.keys.source):
            return [], []
        return find_files(named_path(self.keys.source))

    def inputs(self) -> Inputs:
        keys, (files, _) = self.keys, self.files()
        settings = keys.model_dump(exclude={"source", "tokenizer", "vocab_size"})
        settings["source"] = "files" if files else keys.source
        settings["tokenizer"] = _name_tokenizer(keys)
        if not keys.first_client:
            del settings["first_client"]  # as manifests were before there was the key
        settings["num_clients"] = self.num_clients
        settings["sequence_length"] = self.sequence_length
        return Inputs(
            settings,
            PrepareConfig().model_dump(),
            lambda recorded: changed_file(files, recorded) if files else None,
        )

    def plan(self, say: Say) -> Plan:
        files, left_out = self.files()
        parts = zip(by_split(files), self.splits, strict=True)
        read = [f for part, split in parts if split.samples is None for f in part]
        require_sound(read)
        require_readable(read, self.columns)
        plan = self._local(files, say) if files else self._hub(say)
        return replace(plan, left_out=by_reason(left_out))

    def _local(self, files: Sequence[SourceFile], say: Say) -> Plan:
        if all(file.is_document for file in files):
            return self._listed(files, say)
        train, validation = by_split(files)
        say(f"source      {len(files)} files, {len(validation)} of them for validation")
        sources = [LocalSource(part, self.columns) for part in (train, validation) if part]
        if not train:
            raise DataError(f"{self.keys.source}: has files for validation only; add training text")
        if not validation and (small := self._small(sources[0])) is not None:
            return self._plan(*small, say, sources)
        validation_source = sources[1] if validation else None
        phases = self._streamed(sources[0], validation_source, _sizes(train))
        return self._plan(phases, 0, say, sources)

    def _hub(self, say: Say) -> Plan:
        assert self.keys.source is not None
        train, validation = (
            HubSource(self.keys.source, self.keys.name, part, self.columns)
            for part in ("train", VALIDATION)
        )
        own = validation if has_split(validation) else None
        say(f"source      {train.title}, streamed")
        return self._plan(self._streamed(train, own, None), 0, say, [])

    def _plan(
        self, phases: list[Phase], copies: int, say: Say, sources: Sequence[LocalSource]
    ) -> Plan:
        def describe(ends: Sequence[Position | None]) -> list[dict[str, Any]]:
            begun = [*ends, *[None] * len(sources)]
            routes = zip(sources, phases, begun, strict=False)
            return [e for s, p, end in routes for e in s.describe(p.route.files_read(end))]

        def require_unchanged() -> None:
            for source in sources:
                source.require_unchanged()

        return Plan(
            spec=self._spec(),
            phases=phases,
            make_tokenizer=lambda: self._make_tokenizer(phases[0].route, say),
            bos_text=self.keys.bos_text,
            eos_text=self.keys.eos_text,
            describe_files=describe,
            require_unchanged=require_unchanged,
            copies=copies,
        )

    def _listed(self, files: Sequence[SourceFile], say: Say) -> Plan:
        """Whole files are documents: all are known, so they are dealt out exactly."""
        different, copies = without_copies(files)
        say(f"source      {len(files)} documents, {len(copies)} copies left out")
        source = LocalSource(different, self.columns, copies)
        route = self._dealt(different, lambda i: next(source.documents(i, 0))[1], source)
        return self._plan([Phase(route)], len(copies), say, [source])

    def _small(self, source: LocalSource) -> tuple[list[Phase], int] | None:
        """Records that fit one block are all known too: how to deal them out, and their copies."""
        documents = self._route(source, 0.0, 0.0, {}).whole()
        if documents is None:
            return None
        keyed = ((text_digest(d.text) if d.text else d.name, d) for d in reversed(documents))
        different = list(dict(keyed).values())[::-1]  # an empty text is no copy of another
        route = self._dealt(different, different.__getitem__, source)
        return [Phase(route)], len(documents) - len(different)

    def _dealt(
        self, documents: Sequence[Sized], load: Callable[[int], Document], source: LocalSource
    ) -> ListedRoute:
        stretches, partition = partition_stretches(
            documents, self.rule, validation_fraction=self.keys.validation_fraction
        )
        whole = lru_cache(maxsize=1)(load)  # neighbouring stretches may be of the same document

        def load_stretch(number: int) -> Document:
            return stretches[number].of(whole(stretches[number].index))

        return ListedRoute(partition, stretches, load_stretch, range(source.num_files()))

    def _streamed(
        self, train: Source, validation: Source | None, sizes: dict[str, int] | None
    ) -> list[Phase]:
        """Documents are placed one by one; without a validation split some are held out.

        Args:
            sizes: bytes of each source of the training text, where they are known.
        """
        trained = tuple(f"client_{c}/train" for c in self.clients)
        held_out = (VALIDATION, *(f"client_{c}/validation" for c in self.clients))
        fraction = self.keys.validation_fraction if validation is None else 0.0
        shares: dict[str, list[float]] = {}
        if self.rule.by == "source":
            known = sizes if self.keys.source_column is None else None
            known = known or _sizes(self._route(train, 0.0, 0.0, {}).first_block())
            shares = source_shares(known, self.num_clients)
        phases = [Phase(self._route(train, fraction, fraction, shares), trained)]
        if validation is not None:
            phases.append(Phase(self._route(validation, 0.5, 1.0, shares), held_out))
        return phases

    def _route(
        self, source: Source, common: float, held_out: float, shares: dict[str, list[float]]
    ) -> StreamRoute:
        return StreamRoute(
            source,
            Placement(self.rule, common, held_out, shares),
            seed=self.keys.seed,
            block_documents=self.keys.shuffle_documents,
        )

    def _spec(self) -> DatasetSpec:
        train, validation = (split.most_rows(self.sequence_length) for split in self.splits)
        most: dict[str, int] = {}
        if validation is not None:
            most[VALIDATION] = validation
            shares = np.full(self.num_clients, 1 / self.num_clients)
            most |= self._quotas(VALIDATION, validation, shares)
        exact = self.rule.by in ("iid", "size")
        if train is not None and exact:
            most |= self._quotas("train", train, self.rule.proportions(""))
        return DatasetSpec(
            clients=self.clients,
            sequence_length=self.sequence_length,
            wrap=self.keys.wrap,
            most_rows=most,
            most_train_rows=None if exact else train,
        )

    def _quotas(self, part: str, rows: int, shares: np.ndarray) -> dict[str, int]:
        counts = apportion(rows, shares)
        if 0 in counts:
            raise DataError(
                f"dataset.prepare.splits: {rows} rows for {part} are too few for "
                f"{self.num_clients} clients: client {counts.index(0)} would get none; choose a "
                "larger split"
            )
        return dict(zip((f"client_{c}/{part}" for c in self.clients), counts, strict=True))

    def _make_tokenizer(self, route: Route, say: Say) -> Tokenizer:
        keys = self.keys
        if keys.tokenizer is not None:
            return open_tokenizer(keys.tokenizer)
        say(f"tokenizer   training {keys.vocab_size:,} tokens")
        texts = training_texts(route, keys.tokenizer_bytes, keys.seed)
        first = next(filter(None, texts), None)
        if first is None:
            raise DataError(f"{keys.source}: the text to train on is empty; add text")
        return train_tokenizer(chain([first], texts), keys.vocab_size)


def _name_tokenizer(keys: PrepareConfig) -> str:
    """What tells tokenizers apart: a hub name, a local file's digest, or how it is trained."""
    if keys.tokenizer is None:
        return f"trained, vocab_size={keys.vocab_size}"
    path = tokenizer_file(named_path(keys.tokenizer))
    return f"{path.name} {tokenizer_digest(path)}" if path.is_file() else keys.tokenizer


def _sizes(texts: Sequence[Sized]) -> dict[str, int]:
    """Size of each source, in the unit of the texts' sizes (bytes or characters)."""
    sizes: Counter[str] = Counter()
    for text in texts:
        sizes[text.source] += text.size
    return sizes
