"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def keys_option(text: str) -> Callable[[Any], Any]:
    """`--keys FOLDER`, the folder of `photon keys`.

    Args:
        text: its help.
    """
    return click.option(
        "--keys",
        type=click.Path(path_type=Path),
        default=Path("keys"),
        show_default=True,
        help=text,
    )
