"""What a run trains and sends, as trees without memory (on the meta device).

They are made by what makes a run's own, so that a forecast of bytes cannot differ from a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from photon import points
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import FP32, Codec, layout
from photon.core.messages import Broadcast
from photon.core.round import broadcast_bytes
from photon.core.tree import Tree, num_bytes
from photon.model.build import empty_model, parameters_of
from photon.model.flops import embedding_names
from photon.training.layers import LayerRoles, layers_of
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
    layers: LayerRoles
    moments: Mapping[str, Tree]
    embeddings: frozenset[str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one client and round.

    Attributes:
        up: its update; where nodes fold those of their clients, the update of a node.
        down: what it receives.
        first_down: what it receives in the first round, when there are no moments yet and each
            client's own layers have to come from somewhere.
    """

    up: int
    down: int
    first_down: int


def outline_of(inner: Inner, federation: Federation) -> Outline:
    """The trees of a model whose architecture is read (`architecture_of`).

    Raises:
        ConfigError: layer keys that contradict each other or the model.
    """
    model = empty_model(inner)
    params = parameters_of(model)
    layers = layers_of(federation, list(params))
    freeze(model, layers.frozen)
    moments = InnerOptimizer(model, inner.optimizer).moments()
    return Outline(params, layers, moments, frozenset(embedding_names(model)))


def codec_of(federation: Federation) -> Codec:
    """The codec that a client sends with, and gets the averaged moments in."""
    return points.codec(federation.compression)


def update_codec(federation: Federation) -> Codec:
    """The codec of the updates that reach the server: means of nodes are fp32."""
    return FP32 if federation.fold_updates else codec_of(federation)


def traffic_of(inner: Inner, federation: Federation) -> Traffic:
    """Bytes that each client of a round sends and receives, as the round's record counts them.

    Raises:
        ConfigError: as `outline_of`.
    """
    this = outline_of(inner, federation)
    sent = this.moments if federation.averages_moments else {}
    trees = [{n: this.params[n] for n in this.layers.shared}, *sent.values()]
    up = sum(num_bytes(layout(tree, update_codec(federation))) for tree in trees)

    def down(moments: Mapping[str, Tree], newcomers: bool) -> int:
        encoded = {name: layout(tree, codec_of(federation)) for name, tree in moments.items()}
        whole = Broadcast(params=this.params, moments=encoded)
        return broadcast_bytes(whole, this.layers.received(newcomers))

    return Traffic(up=up, down=down(sent, False), first_down=down({}, True))
