"""What a run trains and sends, as trees without memory (on the meta device).

They are made by what makes a run's own, so that a forecast of bytes cannot differ from a round.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from photon.config.compression import codec_of
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.codec import SQUARES, Codecs, layout
from photon.core.tree import Tree, num_bytes, num_elements
from photon.errors import ConfigError, install_with
from photon.model.build import empty_model, parameters_of
from photon.model.flops import embedding_names
from photon.training.fragments import Fragments, turn_of
from photon.training.layers import LayerRoles, layers_of
from photon.training.optim import first_moments
from photon.training.parallel import freeze
from photon.training.reach import reach


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

    @property
    def num_sent(self) -> int:
        """Elements of a pseudo-gradient, all fragments together."""
        return num_elements(self.params_of(self.layers.shared))

    def params_of(self, names: Iterable[str]) -> Tree:
        return {name: self.params[name] for name in names}


@dataclass(frozen=True, slots=True)
class RoundBytes:
    """Bytes of one client and round.

    Attributes:
        up: its update; where nodes fold those of their clients, the update of a node. Where
            fragments take turns, `up` and `down` are means over their rounds.
        most_up: an update in the round that sends most.
        down: what it receives: whole parameters with all averaged moments, or a difference with
            those moments that are new.
        first_down: what a newcomer receives that cannot make it from the run's seed.
    """

    up: int
    most_up: int
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
    moments = first_moments(model, inner.optimizer)
    return Outline(params, layers, moments, frozenset(embedding_names(model)))


def codecs_of(federation: Federation) -> Codecs:
    """What clients send with, and receive.

    Raises:
        ConfigError: a codec that cannot do with its numbers, or with what it is to send.
    """
    named = federation.compression
    moments = codec_of("fl.compression.moments", named.moments)
    if federation.averages_moments and not moments.is_dense:
        raise ConfigError(
            f"fl.compression.moments={named.moments}: moments that are not sent would be zero, and "
            "a second moment of zero makes a step without bound; take one of blocks, such as int4"
        )
    return Codecs(
        gradient=codec_of("fl.compression.upload", named.upload),
        moments=moments,
        parameters=codec_of("fl.compression.download", named.download)
        if federation.sends_differences
        else None,
    )


def check_sent(federation: Federation, inner: Inner) -> None:
    """Raises:
    ConfigError: as `codecs_of`; masks without the package that makes them, or without a scale.
    """
    codecs_of(federation)
    if not federation.secure_aggregation:
        return
    if find_spec("cryptography") is None:
        raise ConfigError(
            f"fl.secure_aggregation=true needs cryptography: {install_with('secure')}"
        )
    is_bounded = math.isfinite(reach(inner, 1.0, 1, 1, 1.0))
    if not is_bounded or (federation.averages_moments and not inner.clip_norm):
        raise ConfigError(
            "fl.secure_aggregation=true needs a bound on what clients send, to put it in fixed "
            "point: set llm_config.algorithms.gradient_clipping.clipping_threshold"
            + ("" if is_bounded else ", or betas of Adam with b1^2 < b2")
        )


def kept_codecs(federation: Federation) -> Codecs:
    """Of the updates that clients make: those that are to be masked are fp32 until then."""
    return Codecs() if federation.secure_aggregation else codecs_of(federation)


def update_codecs(federation: Federation) -> Codecs:
    """Of the updates that reach the server: means of nodes are fp32."""
    return Codecs() if federation.fold_updates else kept_codecs(federation)


def averaged_in(federation: Federation, moments: Iterable[str], round_number: int) -> list[str]:
    """The moments that clients send in a round, each at its own period (DES-LOC: Iacob et al. 2025,
    arXiv:2505.22549, algorithm 1), which counts the turns of the round's fragment.
    """
    turn = turn_of(round_number, federation.fragments)
    return [name for name, every in periods_of(federation, moments).items() if turn % every == 0]


def periods_of(federation: Federation, moments: Iterable[str]) -> dict[str, int]:
    """Turns of a fragment, or rounds where there is but one, from one averaging to the next, of the
    moments that are averaged.
    """
    first, second = federation.first_moment_period, federation.second_moment_period
    given = {name: second if name in SQUARES else first for name in moments}
    averages = federation.averages_moments
    return {name: period for name, period in given.items() if averages and period is not None}


def traffic_of(inner: Inner, federation: Federation) -> RoundBytes:
    """Bytes that each client of a round sends and receives, as the round's record counts them.

    Raises:
        ConfigError: as `outline_of`.
    """
    outline, down = outline_of(inner, federation), codecs_of(federation)
    layers, periods = outline.layers, periods_of(federation, outline.moments)
    shared = outline.params_of(layers.shared)

    def each_round(moments: Mapping[str, int]) -> int:
        """On average over the rounds of their periods."""
        return round(sum(moments[name] / every for name, every in periods.items()))

    gradient, moments_up = _update_bytes(outline, federation, shared)
    fragments = Fragments.of(federation, layers, outline.params).groups
    updates = [_update_bytes(outline, federation, names) for names in fragments]
    moments_down = _moment_bytes(outline, federation, shared, down)
    if down.parameters:
        received = num_bytes(layout(shared, down.parameters)) + each_round(moments_down)
    else:
        received = num_bytes(outline.params_of(layers.received(newcomers=False)))
        received += sum(moments_down.values())
    return RoundBytes(
        up=round((gradient + each_round(moments_up)) / len(fragments)),
        most_up=max(size + sum(moments.values()) for size, moments in updates),
        down=round(received / len(fragments)),
        first_down=num_bytes(outline.params_of(layers.received(newcomers=True))),
    )


def _update_bytes(
    outline: Outline, federation: Federation, names: Collection[str]
) -> tuple[int, dict[str, int]]:
    """Bytes of an update of these parameters: of its pseudo-gradient, and of each moment that is
    averaged.
    """
    codecs = update_codecs(federation)
    moments = _moment_bytes(outline, federation, names, codecs)
    if federation.secure_aggregation:  # squares are masked as numbers of 8 bytes
        moments = {name: size * (2 if name in SQUARES else 1) for name, size in moments.items()}
    return num_bytes(layout(outline.params_of(names), codecs.gradient)), moments


def _moment_bytes(
    outline: Outline, federation: Federation, names: Collection[str], codecs: Codecs
) -> dict[str, int]:
    """Bytes of each moment that is averaged, of these parameters."""
    found = {}
    for moment in periods_of(federation, outline.moments):
        tree = outline.moments[moment]
        own = {name: tree[name] for name in names if name in tree}
        found[moment] = num_bytes(layout(own, codecs.of_moment(moment)))
    return found
