"""The outer optimizer that a configuration names: one of Photon's, or somebody's own."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping

import torch

from photon.config.federation import Federation
from photon.core.outer import EMA, OuterOptimizer, averaging, ema_decay
from photon.errors import ConfigError
from photon.points import find
from photon.training.fragments import turn_of
from photon.training.schedule import outer_lr_factor

RATES = ("lr", "eta")
"""Arguments that are learning rates; an own strategy may be given both."""


def outer_of(federation: Federation, round_number: int, moved: int | None = None) -> OuterOptimizer:
    """The outer optimizer with the learning rate of a round.

    Args:
        round_number: of an asynchronous run the round in which a synchronous one would be.
        moved: how often momentum has moved before, of the round's fragment, which neither a round
            that was skipped nor a small merge makes it do; None: with each round.

    Raises:
        ConfigError: an own one cannot be imported, or is none.
    """
    fl, factor = federation, outer_lr_factor(federation, round_number)
    given = {"lr" if k == "server_learning_rate" else k: v for k, v in fl.outer_arguments.items()}
    scaled = {k: v * factor if k in RATES else v for k, v in given.items()}
    if fl.has_own_strategy and os.getcwd() not in sys.path:  # it is looked into as Python does
        sys.path.append(os.getcwd())
    gathering = {"gathers": True} if fl.is_async else {}
    made = _made(fl.outer_name, _import(fl.outer.make), {**scaled, **gathering})
    if fl.ema_decay is None:
        return made
    # Each fragment's average is its own, and as long in rounds as that of all parameters would be.
    turn = turn_of(round_number, fl.fragments) if moved is None else moved + 1
    return averaging(made, ema_decay(fl.ema_decay**fl.fragments, turn))


def outer_trees(federation: Federation) -> int:
    """Trees like the parameters that it keeps."""
    return len(outer_of(federation, 1).init({"w": torch.zeros(1)}))


def _made(name: str, make: Callable[..., object], arguments: Mapping[str, float]) -> OuterOptimizer:
    _check_arguments(name, make, arguments)
    try:
        made = make(**arguments)
    except TypeError as error:
        raise ConfigError(f"fl.strategy_name={name}: {error}") from error
    if not isinstance(made, OuterOptimizer):
        raise ConfigError(
            f"fl.strategy_name={name}: must give a photon.core.outer.OuterOptimizer, "
            f"gave {type(made).__name__}"
        )
    if EMA in made.init({"w": torch.zeros(1)}):
        raise ConfigError(
            f"fl.strategy_name={name}: a tree of its state is called {EMA!r}, as is that of "
            "fl.ema_decay, which is given out; call it something else"
        )
    return made


def _check_arguments(name: str, make: Callable[..., object], given: Mapping[str, float]) -> None:
    """Raises:
    ConfigError: an argument that the function does not take; builtins do not tell.
    """
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in takes.values()):
        return
    if unknown := sorted(set(given) - set(takes) - {"lr"}):
        own = ["server_learning_rate" if key == "lr" else key for key in takes]
        raise ConfigError(
            f"fl.strategy_kwargs.{unknown[0]}: is no argument of {name}; it takes "
            + (", ".join(own) or "none")
        )


def _import(where: str) -> Callable[..., object]:
    try:
        return find(where)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"fl.strategy_name={where}: {error}; it names a function in a module of the current "
            "folder or of an installed package"
        ) from error
