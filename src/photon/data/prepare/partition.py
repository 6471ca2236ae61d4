"""Which document goes to which client: pure functions of names and seeds.

Documents that are listed beforehand are dealt out exactly: whole and by their number
(`partition_documents`), or by their size, cut where that is needed (`partition_stretches`). Those
of a stream are placed one by one (`Placement`), by a hash of their text, so that equal texts always
share a place and no client sees another's, or held-out, text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from photon.core.seeds import derive_seed, generator
from photon.data.prepare.corpus import Document
from photon.data.prepare.stretches import STRETCH, Stretch, cut_to_shares, hold_out
from photon.errors import DataError

VALIDATION = "validation"
_DIRICHLET_TRIES = 100
"""Draws of the Dirichlet distribution after which a client may stay without documents."""


class Sized(Protocol):
    """What the partition needs to know about a document; `size` in any unit."""

    @property
    def source(self) -> str: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """How documents are shared out among clients.

    Attributes:
        by: `iid`, at random; `source`, whole sources to clients; `dirichlet`, each source in
            proportions drawn from a symmetric Dirichlet distribution; `size`, at random, but
            client i gets a share that falls as (i + 1)^-exponent.
        alpha: concentration of the Dirichlet distribution; the smaller, the more heterogeneous.
        exponent: of the power law.
        first: number of the first client; all else counts them from 0.
    """

    by: str
    num_clients: int
    seed: int
    alpha: float = 1.0
    exponent: float = 1.0
    first: int = 0

    def proportions(self, source: str, attempt: int = 0) -> np.ndarray:
        """Share of each client in a source's text: [K], sums to 1; `source` deals otherwise."""
        if self.by == "dirichlet":
            draw = generator(self.seed, f"dirichlet:{source}", attempt)
            return draw.dirichlet(np.full(self.num_clients, self.alpha))
        exponent = self.exponent if self.by == "size" else 0.0
        shares = np.arange(1, self.num_clients + 1, dtype=np.float64) ** -exponent
        return shares / shares.sum()


@dataclass(frozen=True, slots=True)
class Partition:
    """Indices of documents: a common validation set, and (train, held-out) of each client.

    Attributes:
        first: number of the first client.
    """

    validation: tuple[int, ...]
    train: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]
    first: int = 0


def partition_documents(
    documents: Sequence[Sized], rule: Rule, *, validation_fraction: float
) -> Partition:
    """Split listed documents into a common validation set and the clients' own parts.

    Every document lands in exactly one place. The validation set is the same for any number of
    clients and any rule.

    Args:
        validation_fraction: share of documents for the common set, and again for each client's
            held-out part.

    Raises:
        DataError: too few documents or sources for that many clients.
    """
    order = _permutation(len(documents), rule.seed, "validation")
    cut = max(1, round(validation_fraction * len(documents)))
    validation, rest = order[:cut], order[cut:]
    if len(rest) < 2 * rule.num_clients:  # said before millions of parts are made
        raise DataError(
            f"the corpus is too small for {rule.num_clients} clients: each needs 2 of its "
            f"{len(rest)} documents; use fewer clients"
        )
    parts = _parts(documents, rest, rule)
    if smallest := [c for c, part in enumerate(parts) if len(part) < 2]:
        raise DataError(
            f"the corpus is too small for {rule.num_clients} clients: client {smallest[0]} would "
            f"have {len(parts[smallest[0]])} of {len(rest)} documents and needs 2; use fewer "
            "clients"
        )
    train, held_out = [], []
    for client, part in enumerate(parts):
        shuffled = [part[i] for i in _permutation(len(part), rule.seed, "held-out", client)]
        count = max(1, round(validation_fraction * len(part)))
        held_out.append(tuple(sorted(shuffled[:count])))
        train.append(tuple(shuffled[count:]))
    return Partition(tuple(sorted(validation)), tuple(train), tuple(held_out), rule.first)


def partition_stretches(
    documents: Sequence[Sized], rule: Rule, *, validation_fraction: float
) -> tuple[list[Stretch], Partition]:
    """The stretches of listed documents, every text in one of them, and their partition.

    Each client, and the common validation set, gets its fraction of the text whatever the
    documents' sizes are: long ones are cut, or all where there are few. So a client can live on one
    document, and all of them on one.
    """
    order = _permutation(len(documents), rule.seed, "validation")
    whole = [Stretch(i, documents[i].source, documents[i].size) for i in order]
    by_source = rule.by == "source"
    rest, common = hold_out(whole, validation_fraction, every_source=by_source)
    groups = [common]
    for client, part in enumerate(_deal(rest, rule)):
        order = _permutation(len(part), rule.seed, "held-out", client)
        groups.extend(hold_out([part[i] for i in order], validation_fraction))
    stretches = [stretch for group in groups for stretch in group]
    ends = np.cumsum([len(group) for group in groups]).tolist()
    numbers = [tuple(range(a, b)) for a, b in zip([0, *ends], ends, strict=False)]
    return stretches, Partition(numbers[0], tuple(numbers[1::2]), tuple(numbers[2::2]), rule.first)


def _deal(stretches: list[Stretch], rule: Rule) -> list[list[Stretch]]:
    """Whole stretches to clients; where one would get none, all are laid end to end and cut."""
    if rule.by == "source":
        stretches = sorted(stretches, key=lambda stretch: (stretch.source, stretch.index))
    parts = _parts(stretches, range(len(stretches)), rule, least=1)
    if all(parts):
        return [[stretches[i] for i in part] for part in parts]
    cut: list[list[Stretch]] = [[] for _ in parts]
    for source in sorted({s.source for s in stretches}) if rule.by == "dirichlet" else [""]:
        members = [s for s in stretches if source in ("", s.source)]
        pieces = cut_to_shares(members, rule.proportions(source).tolist())
        for part, piece in zip(cut, pieces, strict=True):
            part.extend(piece)
    return cut


def _permutation(size: int, seed: int, purpose: str, *address: int) -> list[int]:
    return generator(seed, purpose, *address).permutation(size).tolist()


def _parts(
    documents: Sequence[Sized], indices: Sequence[int], rule: Rule, least: int = 2
) -> list[list[int]]:
    """Indices of each client's documents.

    Args:
        least: documents of a client for which a Dirichlet draw is repeated.
    """
    if rule.by == "iid":
        return [list(indices[client :: rule.num_clients]) for client in range(rule.num_clients)]
    if rule.by == "source":
        return _by_source(documents, sorted(indices), rule.num_clients)
    if rule.by == "size":
        return _cut(indices, rule.proportions(""))
    parts: list[list[int]] = []
    for attempt in range(_DIRICHLET_TRIES):
        parts = _by_dirichlet(documents, indices, rule, attempt)
        if min(map(len, parts)) >= least:
            break
    return parts


def _by_dirichlet(
    documents: Sequence[Sized], indices: Sequence[int], rule: Rule, attempt: int
) -> list[list[int]]:
    """Cut each source at proportions of its own draw; drawn anew where a client stays empty."""
    sources: dict[str, list[int]] = {}
    for i in indices:
        sources.setdefault(documents[i].source, []).append(i)
    parts: list[list[int]] = [[] for _ in range(rule.num_clients)]
    for source, members in sorted(sources.items()):
        pieces = _cut(members, rule.proportions(source, attempt))
        for part, piece in zip(parts, pieces, strict=True):
            part.extend(piece)
    return parts


def _cut(indices: Sequence[int], proportions: np.ndarray) -> list[list[int]]:
    ends = np.round(np.cumsum(proportions) * len(indices)).astype(int)
    starts = [0, *ends[:-1]]
    return [list(indices[a:b]) for a, b in zip(starts, ends, strict=True)]


def _by_source(
    documents: Sequence[Sized], indices: Sequence[int], num_clients: int
) -> list[list[int]]:
    """Largest source first, to the client with the least text so far.

    A source larger than a client's fair share is cut into pieces of about that share; but as many
    sources as clients are one each, in the order of their names.
    """
    members: dict[str, list[int]] = {}
    for i in indices:
        members.setdefault(documents[i].source, []).append(i)
    if len(members) == num_clients:
        return [members[name] for name in sorted(members)]
    size = {i: documents[i].size for i in indices}
    share = sum(size.values()) / num_clients
    everything = [piece for of in members.values() for piece in _pieces(of, size, share)]
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    loads = [0] * num_clients
    for piece in sorted(everything, key=lambda p: (-sum(size[i] for i in p), p[0])):
        client = loads.index(min(loads))
        parts[client].extend(piece)
        loads[client] += sum(size[i] for i in piece)
    return parts


def _pieces(indices: Sequence[int], size: Mapping[int, int], most: float) -> list[list[int]]:
    """Consecutive documents together, up to a size."""
    pieces: list[list[int]] = [[]]
    filled = 0
    for i in indices:
        if pieces[-1] and filled + size[i] > most:
            pieces.append([])
            filled = 0
        pieces[-1].append(i)
        filled += size[i]
    return pieces


@dataclass(frozen=True, slots=True)
class Placement:
    """Places the documents of a stream one by one, by text and source alone.

    Attributes:
        rule: how training text is shared out.
        common: share of the text that goes to the common validation set.
        held_out: share of a client's text that it keeps for its own validation.
        shares: by `source`: each known source's share of every client, [K].
    """

    rule: Rule
    common: float
    held_out: float
    shares: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def deal(self, digest: int, document: Document) -> list[tuple[str, Document]]:
        """A document, or the stretches of a long one, each with the part that it goes to.

        Args:
            digest: hash of the document's text, 63 bits.
        """
        ends = min(self.common, self.held_out) * document.size
        if ends < STRETCH or self.held_out >= 0.5:
            return [(self.place(digest, document.source), document)]
        client = f"client_{self.rule.first + self._client(digest, document.source)}"
        rest, common = Stretch(0, document.source, document.size).split(1 - self.common)
        train, held_out = rest.split(1 - self.held_out)
        places = (f"{client}/train", f"{client}/validation", VALIDATION)
        return [(p, s.of(document)) for p, s in zip(places, (train, held_out, common), strict=True)]

    def place(self, digest: int, source: str) -> str:
        """The part of a whole document: `validation`, `client_3/train` or `client_3/validation`."""
        if self._uniform("common", digest) < self.common:
            return VALIDATION
        client = self.rule.first + self._client(digest, source)
        held_out = self._uniform("held-out", digest) < self.held_out
        return f"client_{client}/{'validation' if held_out else 'train'}"

    def _client(self, digest: int, source: str) -> int:
        if self.rule.by == "source" and source not in self.shares:
            name = int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "big")
            return name % self.rule.num_clients
        shares = self.shares.get(source, ()) or self.rule.proportions(source)
        drawn = np.searchsorted(np.cumsum(shares), self._uniform("client", digest), side="right")
        return min(int(drawn), self.rule.num_clients - 1)

    def _uniform(self, purpose: str, digest: int) -> float:
        """A number in [0, 1) that depends on the seed, the purpose and the text."""
        return derive_seed(self.rule.seed, purpose, digest) / (1 << 63)


def source_shares(sizes: Mapping[str, int], num_clients: int) -> dict[str, list[float]]:
    """Share out sources so that all clients get equally much and as few sources as possible.

    The sources, largest first, are laid end to end on a line, and the line is cut into K equal
    pieces; a source's share of a client is what the piece has of it. But K sources are one each.

    Args:
        sizes: of each source, any unit.

    Returns:
        For each source, [K], sums to 1.
    """
    if len(sizes) == num_clients:
        rows = np.eye(num_clients).tolist()
        return dict(zip(sorted(sizes), rows, strict=True))
    order = sorted(sizes, key=lambda source: (-sizes[source], source))
    total = sum(sizes.values()) or 1
    shares, begin = {}, 0.0
    cuts = np.arange(num_clients + 1) / num_clients
    for source in order:
        end = begin + sizes[source] / total
        overlap = np.clip(np.minimum(cuts[1:], end) - np.maximum(cuts[:-1], begin), 0, None)
        fallback = np.eye(num_clients)[min(int(begin * num_clients), num_clients - 1)]
        shares[source] = (overlap / overlap.sum() if overlap.sum() else fallback).tolist()
        begin = end
    return shares
