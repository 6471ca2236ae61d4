"""A client's part in a session: keys, shares, masks, and one answer to who has dropped out.

Source: Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", figure 4, against a server that keeps to the protocol and remembers everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from photon.errors import PayloadError
from photon.secure import masks
from photon.secure.fixed_point import (
    TOKENS,
    Piece,
    Trees,
    limbs,
    numbers_of,
    pieces,
    quantised,
    ring,
)
from photon.secure.masks import Mask
from photon.secure.shares import SHARE_BYTES, Random, split
from photon.secure.terms import PublicKeys, Sealed, Terms

Vectors = Mapping[str, np.ndarray]
"""All numbers of each tree, flat, in its ring; and the limbs of the tokens."""


@dataclass(slots=True)
class Member:
    """Its secrets live as long as the session.

    Attributes:
        number: of the client.
        random: of the operating system: no seed that anybody else has may lead to it.
    """

    terms: Terms
    number: int
    random: Random = secrets.token_bytes
    _sealing: bytes = b""
    _masking: bytes = b""
    _own: bytes = b""
    _context: bytes = b""
    _keys: dict[int, PublicKeys] = field(default_factory=dict)
    _shares: dict[int, bytes] = field(default_factory=dict)
    _answered: frozenset[int] | None = None

    def __post_init__(self) -> None:
        self._sealing, self._masking, self._own = (self.random(masks.KEY_BYTES) for _ in range(3))

    @property
    def keys(self) -> PublicKeys:
        return PublicKeys(
            masks.public_of(self._sealing),
            masks.public_of(self._masking),
            masks.commitment(self._own),
        )

    def share(self, keys: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Shares of both secrets, sealed for each other client.

        Args:
            keys: of all that take part.

        Raises:
            PayloadError: they are not of this session, too few, or came before and were others.
        """
        if not set(keys) <= set(self.terms.clients) or keys.get(self.number) != self.keys:
            raise PayloadError("secure aggregation: keys that are not those of the session")
        if len(keys) < self.terms.threshold or len(set(keys.values())) < len(keys):
            raise PayloadError(f"secure aggregation: the keys of {len(keys)} clients are too few")
        if self._keys:
            raise PayloadError("secure aggregation: the keys of the session have come already")
        self._keys, self._context = dict(keys), self.terms.context(keys)
        each = [
            split(s, self.terms.threshold, keys, self.random) for s in (self._own, self._masking)
        ]
        both = {client: each[0][client] + each[1][client] for client in keys}
        self._shares[self.number] = both.pop(self.number)
        return {
            client: masks.seal(self._seal_key(self.number, client), text, self._context)
            for client, text in both.items()
        }

    def _seal_key(self, sender: int, receiver: int) -> bytes:
        other = self._keys[receiver if sender == self.number else sender]
        purpose = b"seal %d %d" % (sender, receiver)
        return masks.agreed(self._sealing, other.sealing, purpose, self._context)

    def masked_by(self, sealed: Sealed) -> list[Mask]:
        """The masks of this client's numbers, when the others have sent their shares.

        Raises:
            PayloadError: shares of strangers, too few, not sealed by their senders, or they came
                before from others.
        """
        if not set(sealed) < set(self._keys) or self.number in sealed:
            raise PayloadError("secure aggregation: shares of clients without keys")
        if len(sealed) + 1 < self.terms.threshold:
            raise PayloadError(f"secure aggregation: {len(sealed) + 1} clients are too few")
        if len(self._shares) > 1 and set(sealed) != self._shares.keys() - {self.number}:
            raise PayloadError("secure aggregation: the shares of the session have come already")
        opened = {}
        for client, text in sealed.items():
            opened[client] = masks.unseal(self._seal_key(client, self.number), text, self._context)
            if len(opened[client]) != 2 * SHARE_BYTES:
                raise PayloadError(f"secure aggregation: no shares in what client {client} sent")
        self._shares |= opened
        pairs = [
            masks.pair_mask(
                self.number, other, self._masking, self._keys[other].masking, self._context
            )
            for other in sorted(sealed)
        ]
        return [masks.self_mask(self.number, self._own, self._context), *pairs]

    def reveal(self, survivors: Collection[int]) -> dict[int, bytes]:
        """A share of each client: of its own mask's secret if its numbers have come, of its key if
        not. Never both: this answers one question, as often as it is asked.

        Raises:
            PayloadError: too few have sent numbers, or another question was answered before.
        """
        asked = frozenset(survivors)
        if not asked <= self._shares.keys() or self.number not in asked:
            raise PayloadError("secure aggregation: survivors that are none of its clients")
        if len(asked) < self.terms.threshold:
            raise PayloadError(f"secure aggregation: {len(asked)} survivors are too few")
        if self._answered not in (None, asked):
            raise PayloadError("secure aggregation: has answered for other survivors already")
        self._answered = asked
        return {
            client: both[:SHARE_BYTES] if client in asked else both[SHARE_BYTES:]
            for client, both in self._shares.items()
        }


def mask_numbers(
    trees: Trees,
    tokens: int,
    terms: Terms,
    with_masks: Collection[Mask],
    make: Callable[[str, int, np.dtype], np.ndarray],
    pool: Executor | None = None,
) -> dict[str, np.ndarray]:
    """The numbers of an update by its share, in fixed point, masked; few pieces in memory at once.

    Args:
        tokens: that the client has trained on.
        make: gives memory for so many numbers of a tree, in the type of its ring.
        pool: pieces are made by its threads.

    Raises:
        PayloadError: a number is beyond the reach of honest steps, or the tokens are.
    """
    if not 1 <= tokens <= terms.most_tokens:
        raise PayloadError(
            f"trained on {tokens} tokens, at most {terms.most_tokens} were asked for"
        )
    made, share = pieces(trees), terms.share(tokens)
    out = {
        name: make(name, sum(value.numel() for value in tree.values()), ring(name))
        for name, tree in trees.items()
    }

    def write(numbered: tuple[int, Piece]) -> None:
        number, piece = numbered
        own, its = numbers_of(trees, piece), terms.scale(piece.tree)
        numbers = quantised(own, share, its, ring(piece.tree))
        for mask in with_masks:
            masks.add(mask, number, numbers)
        out[piece.tree][piece.place] = numbers

    for _ in pool.map(write, enumerate(made)) if pool else map(write, enumerate(made)):
        pass
    counts = limbs(tokens)
    for mask in with_masks:
        masks.add(mask, len(made), counts)
    return {**out, TOKENS: counts}
