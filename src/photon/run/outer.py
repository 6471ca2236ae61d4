"""The outer optimizer that a configuration names: one of Photon's, or somebody's own."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch

from photon.config.federation import Federation
from photon.core.outer import OuterOptimizer, outer_factor, outer_optimizer
from photon.errors import ConfigError

RATES = ("server_learning_rate", "eta")
"""Arguments that are learning rates; an own strategy may be given both."""


def outer_of(federation: Federation, round_number: int) -> OuterOptimizer:
    """The outer optimizer with the learning rate of a round.

    Raises:
        ConfigError: an own one cannot be imported, or is none.
    """
    fl, schedule = federation, federation.outer_schedule
    factor = outer_factor(
        schedule.name, round_number, fl.rounds, schedule.t_warmup, schedule.alpha_f
    )
    scaled = {k: v * factor if k in RATES else v for k, v in fl.outer_arguments.items()}
    if fl.has_own_strategy:
        return _own(fl, scaled)
    return outer_optimizer(fl.outer_name, scaled)


def outer_trees(federation: Federation) -> int:
    """Trees like the parameters that it keeps."""
    return len(outer_of(federation, 1).init({"w": torch.zeros(1)}))


def _own(fl: Federation, arguments: dict[str, float]) -> OuterOptimizer:
    make = _import(fl.outer_name)
    rest = {key: value for key, value in arguments.items() if key != "server_learning_rate"}
    _check_arguments(fl.outer_name, make, rest)
    try:
        made = make(lr=arguments["server_learning_rate"], **rest)
    except TypeError as error:
        raise ConfigError(f"fl.strategy_name={fl.outer_name}: {error}") from error
    if not isinstance(made, OuterOptimizer):
        raise ConfigError(
            f"fl.strategy_name={fl.outer_name}: must give a photon.core.outer.OuterOptimizer, "
            f"gave {type(made).__name__}"
        )
    return made


def _check_arguments(name: str, make: Any, given: Mapping[str, float]) -> None:
    """Raises:
    ConfigError: an argument that the function does not take; builtins do not tell.
    """
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        return
    if unknown := sorted(set(given) - set(takes)):
        own = ", ".join(key for key in takes if key != "lr") or "none but lr"
        raise ConfigError(
            f"fl.strategy_kwargs.{unknown[0]}: is no argument of {name}; it takes {own}"
        )


def _import(name: str) -> Any:
    """The function `module:function`; the current folder is looked into as Python does."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"fl.strategy_name={name}: {error}; it names a function in a module of the current "
            "folder or of an installed package"
        ) from error
