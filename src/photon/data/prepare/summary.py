"""What each client of a prepared data set holds, and how far it is from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from photon.data.manifest import clients_of, read_part, read_whole
from photon.data.prepare.part import read_digests

_SPLITS = ("train", "validation")
_SHOWN_CLIENTS = 8
_SHOWN_NAMES = 3


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """One client's own training and validation text.

    Attributes:
        documents: training and validation together.
        train_tokens, validation_tokens: targets in rows.
        sources: training documents by source.
        overlap: documents that another client, or the common validation set, holds as well; None
            where document hashes were not recorded.
        divergence: Jensen-Shannon divergence in bits of the training text's unigram distribution
            from the clients' mean: 0 is like everybody, 1 has no token in common.
    """

    client: int
    documents: int
    train_tokens: int
    validation_tokens: int
    sources: dict[str, int]
    overlap: int | None
    divergence: float


def summarise(root: Path) -> list[ClientSummary]:
    """A summary of every client.

    Raises:
        DataError: no prepared data there, or a manifest is unreadable.
    """
    clients = clients_of(read_whole(root))
    folders = [
        {split: root / f"client_{client}" / split for split in _SPLITS} for client in clients
    ]
    manifests = [
        {split: read_part(f, is_counted=True) for split, f in own.items()} for own in folders
    ]
    overlaps = _overlaps(folders, root / "validation")
    counts = [np.asarray(own["train"]["unigram"], dtype=np.float64) for own in manifests]
    unigrams = [tokens / tokens.sum() for tokens in counts]
    mean = np.mean(unigrams, axis=0)
    return [
        ClientSummary(
            client=client,
            documents=sum(manifest.get("documents", 0) for manifest in own.values()),
            train_tokens=own["train"]["tokens"],
            validation_tokens=own["validation"]["tokens"],
            sources=own["train"].get("source_documents", {}),
            overlap=overlap,
            divergence=_jensen_shannon(unigram, mean),
        )
        for client, own, overlap, unigram in zip(
            clients, manifests, overlaps, unigrams, strict=True
        )
    ]


def held_out_lines(root: Path) -> list[str]:
    """What was held out for validation, and of whom.

    Raises:
        DataError: no prepared data there, or a manifest is unreadable.
    """
    own = {
        client: {split: read_part(root / f"client_{client}/{split}") for split in _SPLITS}
        for client in clients_of(read_whole(root))
    }
    common = read_part(root / "validation")
    every = [common, *(part for parts in own.values() for part in parts.values())]
    first = (
        f"common: {common['text_tokens']:,} tokens, {_percent(common, every):.1f} % of all, from "
        + _some_of(_sources(common))
    )
    trained = _sources(*(parts["train"] for parts in own.values()))
    gone = sorted(set(_sources(*every)) - set(trained))
    plural = "s" if len(gone) > 1 else ""
    last = f"no training text is left of {len(gone):,} source{plural}: {_some_of(gone)}"
    return [first, *_held_out_of_clients(own), *([last] if gone else [])]


def _held_out_of_clients(own: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    shares = {c: _percent(p["validation"], list(p.values())) for c, p in own.items()}
    if len(own) > _SHOWN_CLIENTS:
        return [
            f"clients {min(own)}-{max(own)}: {min(shares.values()):.1f} to "
            f"{max(shares.values()):.1f} % of each one's tokens"
        ]
    return [
        f"client {client}: {shares[client]:.1f} % of its tokens, from "
        + _some_of(_sources(parts["validation"]))
        for client, parts in own.items()
    ]


def _sources(*parts: Mapping[str, Any]) -> list[str]:
    return [name for part in parts for name in part.get("sources", [])]


def _some_of(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    more = len(names) - _SHOWN_NAMES
    shown = [name or "(none)" for name in names[:_SHOWN_NAMES]]
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def _percent(part: Mapping[str, Any], whole: Sequence[Mapping[str, Any]]) -> float:
    return 100 * part["text_tokens"] / sum(other["text_tokens"] for other in whole)


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits: H((p + q) / 2) - (H(p) + H(q)) / 2 (Lin 1991, eq. 4.1).

    Args:
        p, q: [V], each sums to 1.
    """
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: np.ndarray) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum())


def _overlaps(folders: list[dict[str, Path]], common: Path) -> list[int | None]:
    """For each client, how many of its documents are also elsewhere; None: not known."""
    own = [[read_digests(folder) for folder in its.values()] for its in folders]
    everywhere = [*(part for parts in own for part in parts), read_digests(common)]
    known = [part for part in everywhere if part is not None]
    if len(known) < len(everywhere):
        return [None] * len(own)
    mine = [np.concatenate([part for part in parts if part is not None]) for parts in own]
    holders = [np.unique(digests) for digests in (*mine, known[-1])]
    values, counts = np.unique(np.concatenate(holders), return_counts=True)
    shared = values[counts > 1]
    return [int(np.isin(digests, shared).sum()) for digests in mine]
