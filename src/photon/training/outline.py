"""What a run trains and sends, as trees without memory (on the meta device).

They are made by what makes a run's own, so that a forecast of bytes cannot differ from a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from photon.config.schema import Config
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


def outline_of(config: Config) -> Outline:
    """The trees of a configuration whose architecture is read (`with_architecture`).

    Raises:
        ConfigError: layer keys that contradict each other or the model.
    """
    model = empty_model(config.llm_config)
    params = parameters_of(model)
    layers = layers_of(config.fl, list(params))
    freeze(model, layers.frozen)
    moments = InnerOptimizer(model, config.llm_config.optimizer).moments()
    return Outline(params, layers, moments, frozenset(embedding_names(model)))


def outgoing(
    config: Config, layers: Layers, base: Tree, params: Tree, moments: Moments
) -> tuple[dict, dict]:
    """What a client sends: the pseudo-gradient of the shared layers, and the moments if they are
    averaged, in the wire's number format.

    Args:
        base, params: before and after training; all of the model's.
    """
    compression = config.fl.compression
    gradient = encode(subtract({n: base[n] for n in layers.shared}, params), compression)
    sent = moments if config.averages_moments else {}
    return gradient, {name: encode(tree, compression) for name, tree in sent.items()}


def traffic_of(config: Config) -> Traffic:
    """Bytes that each client of a round sends and receives, as the round's record counts them.

    Raises:
        ConfigError: as `outline_of`.
    """
    this = outline_of(config)
    gradient, moments = outgoing(config, this.layers, this.params, this.params, this.moments)
    sent = (gradient, *moments.values())
    if config.fl.fold_updates:
        sent = (encode(tree, "fp32") for tree in sent)
    up = sum(map(num_bytes, sent))

    def down(moments: Moments, newcomers: bool) -> int:
        state = ServerState(round=1, step=0, params=this.params, outer={}, moments=moments)
        return broadcast_bytes(state, this.layers.received(newcomers))

    return Traffic(up=up, down=down(moments, False), first_down=down({}, True))
