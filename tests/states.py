"""States of a server for tests: `close_round` writes over the one that it is given."""

from __future__ import annotations

from dataclasses import replace

from photon.container.container import digest
from photon.core.messages import ServerState
from photon.core.tree import Tree


def copied(state: ServerState) -> ServerState:
    """The same state in memory of its own."""

    def clones(tree: Tree) -> dict:
        return {name: value.clone() for name, value in tree.items()}

    return replace(
        state,
        params=clones(state.params),
        outer={key: clones(tree) for key, tree in state.outer.items()},
        moments={key: clones(tree) for key, tree in state.moments.items()},
        held=clones(state.held),
        difference=clones(state.difference),
    )


def bits(state: ServerState) -> list[str]:
    """Digests of all its tensors: equal only for states equal bit for bit."""
    trees = [*state.outer.values(), *state.moments.values()]
    return [digest(tree) for tree in (state.params, state.held, state.difference, *trees) if tree]
