"""Which parameters are trained, sent, kept by a client, or drawn anew."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.core.tree import Tree, num_elements
from photon.errors import ConfigError
from photon.model.hf import original_name


@dataclass(frozen=True, slots=True)
class LayerRoles:
    """Names of parameters by what becomes of them, each in the model's order.

    Attributes:
        names: all.
        frozen: never trained.
        personal: trained, and kept by each client.
        shared: trained, sent and averaged.
        random: drawn anew from time to time.
    """

    names: tuple[str, ...]
    frozen: tuple[str, ...]
    personal: tuple[str, ...]
    shared: tuple[str, ...]
    random: tuple[str, ...]

    def received(self, newcomers: bool) -> tuple[str, ...]:
        """What the clients of a round are sent: their own layers too where one of them is new."""
        return tuple(name for name in self.names if newcomers or name not in self.personal)


def layers_of(fl: Federation, names: Sequence[str]) -> LayerRoles:
    """Apply the layer keys of a configuration to a model's parameters.

    Raises:
        ConfigError: a pattern that matches nothing, keys that contradict each other, or nothing
            left to train or to average.
    """
    personal = _matching("fl.personalized_layers", fl.personal_layers, names)
    random = _matching("fl.random_layers", fl.random_layers, names)
    frozen = _matching("fl.frozen_layers", fl.frozen_layers or [], names)
    if fl.unfrozen_layers is not None:
        trained = _matching("fl.unfrozen_layers", fl.unfrozen_layers, names)
        frozen = set(names) - trained
    if both := sorted(personal & (frozen | random)):
        other = "frozen" if both[0] in frozen else "random"
        raise ConfigError(
            f"fl.personalized_layers: {both[0]} is {other} too; a layer of the client's own is "
            "trained by that client and by nobody else"
        )
    shared = set(names) - frozen - personal
    if not shared:
        raise ConfigError(
            "fl.frozen_layers, fl.unfrozen_layers, fl.personalized_layers: leave nothing to average"
        )
    if fl.fragments > len(shared):
        raise ConfigError(
            f"fl.fragments={fl.fragments} is more than the {len(shared)} parameters that are sent"
        )
    parts = (set(names), frozen, personal, shared, random)
    return LayerRoles(*(tuple(name for name in names if name in part) for part in parts))


def num_trained(fl: Federation, params: Tree) -> int:
    """Numbers of a model that have a gradient."""
    frozen = layers_of(fl, list(params)).frozen
    return num_elements({name: value for name, value in params.items() if name not in frozen})


def _matching(key: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """Parameters that patterns name: whole names, modules, or globs, as we or the original say."""
    found: set[str] = set()
    for pattern in patterns:
        wanted = pattern.removeprefix("model.")
        here = {name for name in names if _is_named(name, (wanted, f"{wanted}.*"))}
        if not here:
            shown = ", ".join((*names[:2], names[-1]))
            raise ConfigError(f"{key}: {pattern!r} matches no parameter; there are {shown}, ...")
        found |= here
    return found


def _is_named(name: str, globs: tuple[str, ...]) -> bool:
    """Whether one of the globs is of this parameter, as we or the original call it."""
    aliases = name.removeprefix("model."), original_name(name)
    return any(fnmatch.fnmatchcase(alias, glob) for alias in aliases for glob in globs)
