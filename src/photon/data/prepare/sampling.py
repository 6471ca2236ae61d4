"""Which text a tokenizer is trained on, where there is more than it is to see."""

from __future__ import annotations

from collections.abc import Iterator

from photon.data.prepare.routing import Route


def training_texts(route: Route, most_bytes: int, seed: int) -> Iterator[str]:
    """Text that clients train on, of every part of the route the same fraction.

    Taken in the order of the route, it would be the text of the first clients or files alone.
    Held-out text stays unseen.
    """
    parts = route.training_parts(seed)
    size_left = sum(size for size, _ in parts)
    for size, documents in parts:
        room = most_bytes * size // max(1, size_left)
        size_left -= size
        for document in documents:
            if room <= 0:
                break
            text, taken = _beginning(document.text, room)
            yield text
            room -= taken
            most_bytes -= taken  # what a part has not falls to those after it


def _beginning(text: str, most_bytes: int) -> tuple[str, int]:
    """As much of a text as there is room for, and its bytes."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= most_bytes:
        return text, len(data)
    return data[:most_bytes].decode("utf-8", "ignore"), most_bytes
