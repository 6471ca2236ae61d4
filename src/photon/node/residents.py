"""What stays on a device between two clients, where there is room for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from photon.core.messages import Moments
from photon.core.tree import Tree, num_bytes
from photon.machine.device import spare_bytes

KEPT_FREE = 0.5
"""Of what a device has to spare, the part that is left alone."""


class Residents:
    """Copies of what clients need again: the base of a round, and the moments that they keep.

    Nothing is put there before a client has been trained: until then nobody knows what its steps
    take. Without room, a base is copied to pinned memory, once for all clients of a round.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._has_trained = False
        self._base: tuple[str | None, Tree, Moments] = (None, {}, {})
        self._moments: dict[int, tuple[int, Moments]] = {}

    def trained(self) -> None:
        """A client has been: what is free now is to spare."""
        self._has_trained = True

    def base(self, key: str, begin: Callable[[], tuple[Tree, Moments]]) -> tuple[Tree, Moments]:
        """What clients of a round start from, as near to the device as there is room.

        Args:
            key: of another one if it differs.
            begin: gives it, where it is not here.
        """
        if self._base[0] != key:
            self._base = (None, {}, {})
            params, moments = begin()
            trees = self._near({"": params, **moments})
            self._base = (key, trees.pop(""), trees)
        return self._base[1:]

    def keep(self, client: int, round_number: int, live: Moments) -> None:
        """Keep a copy of a client's moments after a round, if there is room."""
        self._moments.pop(client, None)
        if self._has_room(live):
            copies = {m: {n: v.clone() for n, v in tree.items()} for m, tree in live.items()}
            self._moments[client] = round_number, copies

    def moments(self, client: int, round_number: int, saved: Moments) -> Moments:
        """A client's moments after a round: those that are here, or else those of its file."""
        kept_round, kept = self._moments.get(client, (0, {}))
        return kept if kept and kept_round == round_number else saved

    def forget(self) -> None:
        """Leave the moments of all clients to their files."""
        self._moments.clear()

    def _near(self, trees: Mapping[str, Tree]) -> dict[str, Tree]:
        if self._has_room(trees):
            return {key: _on(self._device, tree) for key, tree in trees.items()}
        if self._device.type == "cuda":
            return {k: {n: v.pin_memory() for n, v in tree.items()} for k, tree in trees.items()}
        return dict(trees)

    def _has_room(self, trees: Mapping[str, Tree]) -> bool:
        needed = sum(map(num_bytes, trees.values()))
        return self._has_trained and 0 < needed < (1 - KEPT_FREE) * spare_bytes(self._device)


def _on(device: torch.device, tree: Tree) -> dict[str, Tensor]:
    return {name: value.to(device, copy=True) for name, value in tree.items()}
