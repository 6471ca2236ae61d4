"""Which parameters a round sends and merges, where it is not all of them.

Groups that are synchronised in turn: Streaming DiLoCo (Douillard et al. 2025, arXiv:2501.18512,
algorithm 2), whose fragments are whole layers. Ours are parameters, which makes them more even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.core.tree import Tree
from photon.training.layers import LayerRoles


def fragments_of(sizes: Mapping[str, int], count: int) -> tuple[tuple[str, ...], ...]:
    """Part parameters into groups of about the same size, each in the given order.

    The largest is placed first, and each where there is least; of equal groups the one that follows
    the last choice, so that equal layers are dealt out in turn (the stride of the paper).

    Args:
        sizes: elements by name; an order of their own.
        count: of the groups, of one parameter or more each.
    """
    filled, groups, last = [0] * count, [[] for _ in range(count)], count - 1
    order = list(sizes)
    for name in sorted(order, key=lambda one: -sizes[one]):
        following = [(last + 1 + step) % count for step in range(count)]
        last = min(following, key=lambda at: filled[at])
        filled[last] += sizes[name]
        groups[last].append(name)
    return tuple(tuple(sorted(group, key=order.index)) for group in groups)


def turn_of(number: int, count: int) -> int:
    """How often the group of a round, of so many groups, has had its turn with it; from 1."""
    return (number - 1) // count + 1


@dataclass(frozen=True, slots=True)
class Fragments:
    """The groups of one run; each name is in one of them."""

    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, federation: Federation, layers: LayerRoles, params: Tree) -> Fragments:
        """Of the parameters that are averaged."""
        sizes = {name: params[name].numel() for name in layers.shared}
        return cls(fragments_of(sizes, federation.fragments))

    def turn(self, number: int) -> tuple[int, tuple[str, ...]]:
        """Number and names of the group whose turn a round is, counted from 1."""
        at = (number - 1) % len(self.groups)
        return at, self.groups[at]

    def of_round(self, number: int) -> tuple[str, ...]:
        """What a round sends and merges."""
        return self.turn(number)[1]

    def since(self, number: int, now: int) -> frozenset[str]:
        """What the rounds from one up to, but not including, another have merged."""
        rounds: Sequence[int] = range(max(number, now - len(self.groups)), now)
        return frozenset(name for one in rounds for name in self.of_round(one))
