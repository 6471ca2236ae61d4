"""Which document goes to which client: pure functions of names and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from photon.core.seeds import derive_seed
from photon.data.corpus import Document
from photon.errors import DataError


@dataclass(frozen=True, slots=True)
class Partition:
    """Indices of documents: a common validation set, and (train, held-out) of each client."""

    validation: tuple[int, ...]
    train: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]


def partition_documents(
    documents: Sequence[Document],
    num_clients: int,
    *,
    by: str,
    validation_fraction: float,
    seed: int,
) -> Partition:
    """Split documents into a common validation set and the clients' own parts.

    Every document lands in exactly one place. The validation set is the same for any number of
    clients and either way of splitting.

    Args:
        by: `iid` deals documents out at random; `source` gives whole sources to clients, so that
            the clients' texts differ but their sizes are close.
        validation_fraction: share of documents for the common set, and again for each client's
            held-out part.

    Raises:
        DataError: too few documents or sources for that many clients.
    """
    order = _permutation(len(documents), seed, "validation")
    cut = max(1, round(validation_fraction * len(documents)))
    validation, rest = order[:cut], order[cut:]
    parts = (
        _deal(rest, num_clients)
        if by == "iid"
        else _by_source(documents, sorted(rest), num_clients)
    )
    if smallest := [c for c, part in enumerate(parts) if len(part) < 2]:
        raise DataError(
            f"the corpus is too small for {num_clients} clients: client {smallest[0]} would have "
            f"{len(parts[smallest[0]])} of {len(rest)} documents and needs 2; use fewer clients"
        )
    train, held_out = [], []
    for client, part in enumerate(parts):
        shuffled = [part[i] for i in _permutation(len(part), seed, "held-out", client)]
        count = max(1, round(validation_fraction * len(part)))
        held_out.append(tuple(sorted(shuffled[:count])))
        train.append(tuple(shuffled[count:]))
    return Partition(tuple(sorted(validation)), tuple(train), tuple(held_out))


def _permutation(size: int, seed: int, purpose: str, *address: int) -> list[int]:
    generator = np.random.Generator(np.random.Philox(derive_seed(seed, purpose, *address)))
    return [int(i) for i in generator.permutation(size)]


def _deal(indices: Sequence[int], num_clients: int) -> list[list[int]]:
    return [list(indices[client::num_clients]) for client in range(num_clients)]


def _by_source(
    documents: Sequence[Document], indices: Sequence[int], num_clients: int
) -> list[list[int]]:
    """Largest source first, to the client with the least text so far.

    A source larger than a client's fair share is cut into pieces of about that share.
    """
    size = {i: len(documents[i].text) for i in indices}
    share = sum(size.values()) / num_clients
    groups: dict[str, list[list[int]]] = {}
    for i in indices:
        pieces = groups.setdefault(documents[i].source, [[]])
        if pieces[-1] and sum(size[j] for j in pieces[-1]) + size[i] > share:
            pieces.append([])
        pieces[-1].append(i)
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    loads = [0] * num_clients
    everything = [piece for pieces in groups.values() for piece in pieces]
    for piece in sorted(everything, key=lambda p: (-sum(size[i] for i in p), p[0])):
        client = loads.index(min(loads))
        parts[client].extend(piece)
        loads[client] += sum(size[i] for i in piece)
    return parts
