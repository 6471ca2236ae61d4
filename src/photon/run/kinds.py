"""What a run folder holds, as `kind` in its run.json says, and what such a run is called."""

from __future__ import annotations

import secrets
import time

FEDERATED, CENTRALIZED = "federated", "centralized"
IMPORTED = "imported"
"""A model from elsewhere: one checkpoint, nothing to go on with."""
NODE = "node"
"""Clients that train for a server elsewhere."""
ELSEWHERE = "hosts clients for a server elsewhere"
"""What is said of a node's folder, where a run is looked for."""


def new_name(kind: str) -> str:
    """By time; runs that begin in one second, on whichever machine, differ in the end."""
    return f"{time.strftime(f'{kind}-%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
