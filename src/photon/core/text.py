"""Text that another party has written, before anybody here reads it."""

from __future__ import annotations

MOST_CHARACTERS = 500


def cleaned(text: str, most: int = MOST_CHARACTERS) -> str:
    """One short line: cut, and without characters that a terminal would obey or a log would not
    keep in its line.
    """
    line = "".join(c if c.isprintable() else " " for c in text[:most])
    return line if len(text) <= most else f"{line[: most - 4]} ..."
