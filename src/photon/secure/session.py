"""The server's part in a session: what it hands on, and the sum that it can undo the masks of.

It asks for four things in turn, of all clients that are left: keys, sealed shares, masked numbers,
and shares of what it needs. Whoever does not answer has dropped out; below the threshold the
session ends, and the server has nothing but masks.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from photon.errors import RoundFailed
from photon.secure import masks
from photon.secure.fixed_point import TOKENS, Piece, Trees, counted, pieces, restored, ring
from photon.secure.masks import Mask
from photon.secure.member import Vectors
from photon.secure.shares import SHARE_BYTES, factors, joined
from photon.secure.terms import PublicKeys, Sealed, Terms

T = TypeVar("T")
MOST_TRIED = 1000
"""Choices of holders for a secret, until one without a liar is found."""
Replies = Mapping[int, Mapping[int, bytes]]
"""By client, what it has for or of each other one."""


class Parties(Protocol):
    """Reaches the clients of a session; who does not answer is left out of what comes back.

    Attributes:
        lost: client -> why it has dropped out.
    """

    lost: dict[int, str]

    def agree(self, terms: Terms) -> Mapping[int, PublicKeys]: ...

    def share(self, keys: Mapping[int, PublicKeys]) -> Replies: ...

    def mask(self, sealed: Mapping[int, Sealed]) -> Mapping[int, Vectors]: ...

    def reveal(self, clients: Collection[int], survivors: Collection[int]) -> Replies: ...


class Sum(NamedTuple):
    """What a server learns.

    Attributes:
        clients: whose numbers are in it, in ascending order.
        tokens: of all of them.
        mean: by their shares, float32.
    """

    clients: tuple[int, ...]
    tokens: int
    mean: dict[str, dict[str, Tensor]]


def summed(
    terms: Terms, parties: Parties, like: Trees, pool: Executor | None = None, fewest: int = 0
) -> Sum:
    """Run a session.

    Args:
        like: tensors with the names and shapes of an update.
        pool: its threads undo masks.
        fewest: clients whose sum is of use, if they are more than the threshold.

    Raises:
        RoundFailed: fewer clients than the threshold are left, or no shares fit.
    """
    keys = _enough(terms, parties.agree(terms), "keys")
    sent = {c: its for c, its in parties.share(keys).items() if set(its) == set(keys) - {c}}
    sent = _enough(terms, sent, "shares")
    handed_on = {c: {other: sent[other][c] for other in sent if other != c} for c in sent}
    numbers = {c: v for c, v in parties.mask(handed_on).items() if _has_form(v, like)}
    numbers = _enough(terms, numbers, "masked updates", fewest)
    told = parties.reveal(list(numbers), list(numbers))
    told = {c: its for c, its in told.items() if _are_shares(its, sent)}
    told = _enough(terms, told, "answers")
    added = remedies(terms, keys, list(sent), list(numbers), told)
    return _opened(terms, numbers, added, like, pool)


def _enough(terms: Terms, found: Mapping[int, T], what: str, fewest: int = 0) -> dict[int, T]:
    """What has come, in the order of clients.

    Raises:
        RoundFailed: too little of it.
    """
    known = {client: found[client] for client in sorted(found) if client in terms.clients}
    if len(known) < max(fewest, terms.threshold):
        key = "fl.quorum" if fewest > terms.threshold else "fl.secure_threshold"
        raise RoundFailed(
            f"round {terms.round}: secure aggregation got the {what} of {len(known)} clients, "
            f"{max(fewest, terms.threshold)} are needed ({key}); this attempt reveals nothing"
        )
    return known


def _has_form(numbers: Vectors, like: Trees) -> bool:
    """Whether all numbers are there, in their rings."""
    expected = {n: (sum(v.numel() for v in t.values()), ring(n)) for n, t in like.items()}
    expected[TOKENS] = (4, ring(TOKENS))
    return {name: (its.size, its.dtype) for name, its in numbers.items()} == expected


def _are_shares(told: Mapping[int, bytes], clients: Collection[int]) -> bool:
    return set(told) == set(clients) and all(len(one) == SHARE_BYTES for one in told.values())


def remedies(
    terms: Terms,
    keys: Mapping[int, PublicKeys],
    masking: Collection[int],
    survivors: Collection[int],
    told: Replies,
) -> list[Mask]:
    """What is to be added to the sum of the survivors' numbers, so that no mask is left in it.

    Their own are taken away; what clients that dropped out would have added for them is added.

    Args:
        masking: clients whose shares were handed on.
        told: shares, by who told them and of whom they are.

    Raises:
        RoundFailed: no shares fit: somebody has not told what was shared.
    """
    context, found = terms.context(keys), []
    for client in masking:
        secret = _secret(terms, keys[client], client in survivors, client, told)
        if client in survivors:
            found.append(masks.self_mask(client, secret, context)._replace(sign=-1))
            continue
        for other in survivors:
            public = keys[other].masking
            found.append(masks.pair_mask(client, other, secret, public, context))
    return found


def _secret(terms: Terms, keys: PublicKeys, has_come: bool, client: int, told: Replies) -> bytes:
    """A client's secret, from shares of as many holders as the threshold; it fits what the client
    told at first.

    Where there are more shares than needed, false ones do no harm: other holders are chosen, up to
    `MOST_TRIED` times, until only honest ones are among them.
    """
    of = {holder: its[client] for holder, its in told.items()}
    for chosen in _choices(list(told), terms.threshold):
        secret = joined(of, factors(tuple(chosen)))
        if secret is not None and _fits(secret, keys, has_come):
            return secret
    raise RoundFailed(
        f"round {terms.round}: secure aggregation: no shares of client {client} fit together"
    )


def _choices(holders: list[int], count: int) -> Iterator[Sequence[int]]:
    """So many holders of shares, chosen in one way after the other.

    In all ways if there are few. Otherwise first as neighbours in a ring, since one such choice is
    without any single liar; then by lot.
    """
    if math.comb(len(holders), count) <= MOST_TRIED:
        yield from itertools.combinations(holders, count)
        return
    for first in range(len(holders)):
        yield [holders[(first + i) % len(holders)] for i in range(count)]
    lot = random.Random(0)
    for _ in range(MOST_TRIED):
        yield lot.sample(holders, count)


def _fits(secret: bytes, keys: PublicKeys, has_come: bool) -> bool:
    if has_come:
        return masks.commitment(secret) == keys.commitment
    return masks.public_of(secret) == keys.masking


def _opened(
    terms: Terms,
    numbers: Mapping[int, Vectors],
    added: Collection[Mask],
    like: Trees,
    pool: Executor | None,
) -> Sum:
    """The mean, piece by piece, from masked numbers and what undoes their masks.

    Raises:
        RoundFailed: so many clients cannot have so many tokens: masks are left in the sum.
    """
    made = pieces(like)
    tokens = counted(_added_up([its[TOKENS] for its in numbers.values()], added, len(made)))
    if not len(numbers) <= tokens <= len(numbers) * terms.most_tokens:
        raise RoundFailed(
            f"round {terms.round}: secure aggregation: the sum of the masked updates is no sum: "
            f"{tokens} tokens of {len(numbers)} clients"
        )
    weight = terms.weight(len(numbers), tokens)
    mean = {name: {leaf: torch.empty(v.shape) for leaf, v in t.items()} for name, t in like.items()}

    def write(numbered: tuple[int, Piece]) -> None:
        number, piece = numbered
        rows = [its[piece.tree][piece.place] for its in numbers.values()]
        total, its = _added_up(rows, added, number), terms.scale(piece.tree)
        flat = mean[piece.tree][piece.leaf].view(-1).numpy()
        flat[piece.start : piece.stop] = restored(total, weight, its)

    for _ in pool.map(write, enumerate(made)) if pool else map(write, enumerate(made)):
        pass
    return Sum(tuple(numbers), tokens, mean)


def _added_up(rows: Collection[np.ndarray], added: Collection[Mask], piece: int) -> np.ndarray:
    total = np.zeros_like(next(iter(rows)))
    for row in rows:
        np.add(total, row, out=total)
    for mask in added:
        masks.add(mask, piece, total)
    return total
