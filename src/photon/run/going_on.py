"""With what a federation goes on: its clients' states are where its engine trained them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from photon.errors import RunFolderError
from photon.run.kinds import NODE

LOCAL, FLOWER, SIMULATED, STAND_IN = "local", "flower", "simulated", "stand-in"
"""Engines by name, as run.json keeps them: this machine, `photon server`, `photon simulate` with
real training and with a stand-in for it; others are one's own.
"""
_COMMANDS = {LOCAL: "train", FLOWER: "server", SIMULATED: "simulate", STAND_IN: "simulate"}
_PLACES = {
    LOCAL: "on this machine",
    SIMULATED: "in a simulation",
    STAND_IN: "in a simulation, where a stand-in draws their updates",
}


def engine_of(path: Path, facts: Mapping[str, Any]) -> str:
    """The engine of a run.

    Run folders of before it was written down have Flower's files where it was Flower.
    """
    return facts.get("engine") or (FLOWER if (path / "flower").is_dir() else LOCAL)


def how_to_go_on(path: Path, facts: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """The command that goes on with a run, as its engine was started.

    Args:
        overrides: keys that it sets.
    """
    if facts.get("kind") == NODE:
        return "the `photon node` command that it was started by"
    engine = engine_of(path, facts)
    if engine not in _COMMANDS:
        given = f", {list(overrides)!r}" if overrides else ""
        call = f"photon.resume({str(path)!r}{given}, engine=...)"
        return f"{call}, with the engine that it was begun with"
    options = facts.get("engine_options", ()) if engine != LOCAL else ()
    return shlex.join(["photon", _COMMANDS[engine], "--resume", str(path), *options, *overrides])


def require_engine(path: Path, facts: Mapping[str, Any], engine: str) -> None:
    """Refuse to go on with another engine than a run's own.

    Raises:
        RunFolderError: names the command that goes on.
    """
    own = engine_of(path, facts)
    if own == engine:
        return
    where = _PLACES.get(own, "on nodes, not on this machine")
    raise RunFolderError(f"{path}: its clients train {where}; go on with: "
                         f"{how_to_go_on(path, facts)}")  # fmt: skip
