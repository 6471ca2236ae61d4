"""What clients hold: of the parameters, where they are told no more than how these have changed;
and which state of their own, where several nodes may have trained the same round of a client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from photon.core.codec import Codec, decode, encode, form_fault
from photon.core.messages import (
    Broadcast,
    Difference,
    Instruction,
    Moments,
    ServerState,
    Update,
)
from photon.core.tree import Tree
from photon.errors import PayloadError


def held_before(
    state: ServerState, trained: Iterable[str], codec: Codec | None
) -> dict[str, Tensor]:
    """Parameters as clients hold them, of those that come as differences: at first all they are."""
    if codec is None:
        return {}
    held = state.held
    return {n: held[n] if n in held else state.params[n].clone() for n in trained}


def told(
    held: dict[str, Tensor], params: Tree, codec: Codec | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What clients hold when they have been told of new parameters, and what they are told.

    They are told the difference to what they hold, so that whatever the codec has lost of one is in
    the next: error feedback, whose residual is `params - held`.

    Args:
        held: before; written over.
    """
    sent: dict[str, Tensor] = {}
    if codec is None:
        return held, sent
    for name, value in held.items():
        parts = encode({name: params[name] - value}, codec)[0]
        sent |= parts
        advance(held, parts, codec)
    return held, sent


def advanced(base: Broadcast, difference: Difference, codec: Codec) -> Broadcast:
    """What a difference makes of a base, whose parameters are written over.

    Raises:
        PayloadError: it is of other parameters, or malformed.
    """
    names = {key.partition("/")[0] for key in difference.params}
    like = {name: value for name, value in base.params.items() if name in names}
    if reason := form_fault(difference.params, like, codec):
        raise PayloadError(f"difference {difference.after[:12]}: {reason}")
    advance(base.params, difference.params, codec)
    new = {m: {**base.moments.get(m, {}), **its} for m, its in difference.moments.items()}
    return Broadcast(
        params=base.params,
        moments=in_order({**base.moments, **new}, base.params),
        averaged=dict(sorted({**base.averaged, **difference.averaged}.items())),
    )


def in_order(moments: Moments, params: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Moments by name, what is of each in the order of the parameters: the same container, and so
    the same digest, in whichever rounds they have come.
    """
    places = {name: place for place, name in enumerate(params)}

    def place(key: str) -> int:
        return places.get(key.partition("/")[0], len(places))

    return {m: {k: moments[m][k] for k in sorted(moments[m], key=place)} for m in sorted(moments)}


def noted(moments: Moments, trained: Iterable[str] | None, number: int) -> dict[str, int]:
    """What a round notes of the moments that it has averaged: its number for each; where it sends
    a part of the parameters, for each `moment/parameter` of them.

    Args:
        trained: the parameters that updates carry; None: all.
    """
    if trained is None:
        return dict.fromkeys(moments, number)
    keys = {m: {key.partition("/")[0] for key in tree} for m, tree in moments.items()}
    return {f"{m}/{n}": number for m in moments for n in trained if n in keys[m]}


def last_averaged(received: Broadcast, moment: str, name: str) -> int:
    """The round after which this moment of a parameter was averaged; 0: none. A copy of a run may
    have other fragments, so that both notes are there.
    """
    return max(received.averaged.get(key, 0) for key in (moment, f"{moment}/{name}"))


def without_moments_of(before: Difference, newest: Difference) -> Difference:
    """A difference without the moments that a later one gives again; itself if there are none.

    Moments are told as they are, not as differences: only the last ones count.
    """
    again = newest.moments
    if not any(before.moments[m].keys() & again[m].keys() for m in before.moments if m in again):
        return before
    left = {
        m: {n: v for n, v in tree.items() if n not in again.get(m, {})}
        for m, tree in before.moments.items()
    }
    left = {m: tree for m, tree in left.items() if tree}
    averaged = {key: r for key, r in before.averaged.items() if key.partition("/")[0] in left}
    return replace(before, moments=left, averaged=averaged)


def advance(held: Mapping[str, Tensor], difference: Tree, codec: Codec) -> None:
    """Add an encoded difference to what is held, in place; the same bits wherever that is done."""
    for name, value in decode(difference, held, codec).items():
        held[name].add_(value)


def descent(before: str, done: Instruction | Update, *, lost: bool) -> str:
    """What a client's state after a round has come of, in a word.

    Equal where the same was done from the same beginning. Server and node know it each for itself.

    Args:
        before: of the state before the round, as the client was told.
        lost: whether it had to begin afresh.
    """
    text = f"{'' if lost else before}:{done.round}:{done.base_digest}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
