"""Averaged moments as one client gets them: which are new to it, and what it begins with."""

from __future__ import annotations

import torch

from photon.core.held import last_averaged
from photon.core.messages import Broadcast, ClientState, Moments
from photon.core.tree import Tree


def news(received: Broadcast, averaged: Moments, before: ClientState) -> dict[str, Tree]:
    """The averaged moments that a client has not got yet."""

    def is_new(moment: str, name: str) -> bool:
        is_own = name in before.moments.get(moment, {})
        return not is_own or last_averaged(received, moment, name) >= before.round

    found = {m: {n: v for n, v in tree.items() if is_new(m, n)} for m, tree in averaged.items()}
    return {moment: tree for moment, tree in found.items() if tree}


def joined(own: Moments, averaged: Moments) -> dict[str, Tree]:
    """A client's own moments, with averaged ones in the place of theirs."""
    return {**own, **{name: {**own.get(name, {}), **tree} for name, tree in averaged.items()}}


def filled(own: Moments, live: Moments) -> dict[str, Tree]:
    """Moments with zeros where there are none yet; `live` has the names and shapes of all."""
    return {
        moment: {n: own.get(moment, {}).get(n, torch.zeros(v.shape)) for n, v in tree.items()}
        for moment, tree in live.items()
    }
