"""A payload for the tests of transports: what it holds, how it is fetched, that it came whole."""

from __future__ import annotations

from pathlib import Path

import torch

from photon.container.container import ContainerRef, open_container
from photon.core.messages import Broadcast
from photon.wire.shared_memory import SharedMemory
from photon.wire.signed_urls import fetch


def no_seed() -> Broadcast:
    raise AssertionError("the ticket says where the base is")


def never() -> bool:
    """Nobody asks to stop."""
    return False


def values(count: int = 50_000) -> dict[str, torch.Tensor]:
    return {"a": torch.arange(float(count)), "b": torch.arange(7)}


def assert_arrived(path: Path, ref: ContainerRef) -> None:
    found, facts = open_container(path, ref)
    assert facts == {"k": 1}
    assert all(torch.equal(found[name], value) for name, value in values().items())
    assert not {p.name for p in path.parent.iterdir()} & {f"{path.name}.part", f"{path.name}.spans"}


def fetch_ticket(ticket: dict, path: Path) -> None:
    ways = {"shm": SharedMemory.fetch, "s3": fetch}
    ways[ticket["via"]](ticket, ContainerRef.from_json(ticket), path, never)
