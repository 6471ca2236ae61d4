"""What a run trains and sends, as trees without memory (on the meta device).

They are made by what makes a run's own, so that a forecast of bytes cannot differ from a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import encode
from photon.core.messages import Moments, ServerState
from photon.core.round import broadcast_bytes
from photon.core.tree import Tree, num_bytes, subtract
from photon.model.build import empty_model, parameters_of
from photon.model.flops import embedding_names
from photon.training.layers import Layers, layers_of
from photon.training.optim import InnerOptimizer
from photon.training.parallel import freeze


@dataclass(frozen=True, slots=True)
class Outline:
    """Trees of one client.

    Attributes:
        moments: of the inner optimizer, over the parameters that are trained.
        embeddings: names of tables and of an untied output layer.
    """

    params: Tree
    layers: Layers
    moments: Mapping[str, Tree]
    embeddings: frozenset[str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one client and round.

    Attributes:
        up: its update; of a folded one, the node's.
        down: what it receives.
        first_down: what it receives in the first round, when there are no moments yet and each
            client's own layers have to come from somewhere.
    """

    up: int
    down: int
    first_down: int


def outline_of(inner: Inner, federation: Federation) -> Outline:
    """The trees of a model whose architecture is read (`with_architecture`).

    Raises:
        ConfigError: layer keys that contradict each other or the model.
    """
    model = empty_model(inner)
    params = parameters_of(model)
    layers = layers_of(federation, list(params))
    freeze(model, layers.frozen)
    moments = InnerOptimizer(model, inner.optimizer).moments()
    return Outline(params, layers, moments, frozenset(embedding_names(model)))


def outgoing(
    federation: Federation, layers: Layers, base: Tree, params: Tree, moments: Moments
) -> tuple[dict, dict]:
    """What a client sends: the pseudo-gradient of the shared layers, and the moments if they are
    averaged, in the wire's number format.

    Args:
        base, params: before and after training; all of the model's.
    """
    compression = federation.compression
    gradient = encode(subtract({n: base[n] for n in layers.shared}, params), compression)
    sent = moments if federation.averages_moments else {}
    return gradient, {name: encode(tree, compression) for name, tree in sent.items()}


def sent_bytes(gradient: Tree, moments: Moments) -> int:
    return num_bytes(gradient) + sum(num_bytes(tree) for tree in moments.values())


def traffic_of(inner: Inner, federation: Federation) -> Traffic:
    """Bytes that each client of a round sends and receives, as the round's record counts them.

    Raises:
        ConfigError: as `outline_of`.
    """
    this = outline_of(inner, federation)
    gradient, moments = outgoing(federation, this.layers, this.params, this.params, this.moments)
    folded = (encode(tree, "fp32") for tree in (gradient, *moments.values()))
    up = sum(map(num_bytes, folded)) if federation.fold_updates else sent_bytes(gradient, moments)

    def down(moments: Moments, newcomers: bool) -> int:
        state = ServerState(round=1, step=0, params=this.params, outer={}, moments=moments)
        return broadcast_bytes(state, this.layers.received(newcomers))

    return Traffic(up=up, down=down(moments, False), first_down=down({}, True))
