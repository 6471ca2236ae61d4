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
        residual={key: clones(tree) for key, tree in state.residual.items()},
    )


def bits(state: ServerState) -> list[str]:
    """Digests of all its tensors: equal only for states equal bit for bit."""
    trees = (state.outer, state.moments, state.residual)
    return [digest(state.params), *(digest(tree) for kind in trees for tree in kind.values())]
