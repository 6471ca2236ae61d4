"""Layers that are drawn anew between rounds."""

from __future__ import annotations

from dataclasses import replace

from photon.config.resolve import Run
from photon.core.messages import ServerState
from photon.core.outer import OuterOptimizer
from photon.core.seeds import derive_seed
from photon.core.tree import Tree
from photon.model.build import build_model, parameters_of
from photon.run.outer import outer_of
from photon.training.layers import LayerRoles


def redrawn(run: Run, state: ServerState, layers: LayerRoles) -> ServerState:
    """The state with `fl.random_layers` drawn anew, or itself where that is not due.

    The draw has an address, so that a run that is resumed here draws the same again.
    """
    fl, inner = run.federation, run.inner
    every = fl.redraw_every
    if not layers.random or not every or state.step == 0:
        return state
    if state.step // every == state.redrawn // every:
        return state
    seed = run.seed
    if fl.redraws_anew:  # or else with the values that the run began with
        seed = derive_seed(seed, "random_layers", state.round)
    outer = outer_of(fl, state.round + 1)
    return redraw(state, layers, parameters_of(build_model(inner, seed)), outer)


def redraw(
    state: ServerState, layers: LayerRoles, fresh: Tree, outer: OuterOptimizer
) -> ServerState:
    """Replace the random layers; what the outer optimizer remembers of them begins anew."""
    drawn = {name: fresh[name].clone() for name in layers.random}
    forgotten = outer.init(drawn)
    return replace(
        state,
        params={**state.params, **drawn},
        outer={key: {**tree, **forgotten[key]} for key, tree in state.outer.items()},
        redrawn=state.step,
        held={**state.held, **{n: v.clone() for n, v in drawn.items() if n in state.held}},
        difference={},
        difference_from="",
    )
