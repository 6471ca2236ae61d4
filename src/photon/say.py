"""How code that works for a while tells the user where it is."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Takes a line for the user."""
