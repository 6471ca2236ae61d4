"""What several commands share: options, arguments, and the package that a federation needs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from photon.errors import require_package
from photon.machine.quantity import parse_quantity

PATH = click.Path(path_type=Path)
A_DAY = 86_400.0
"""Seconds: longer than any wait that is asked for, and short enough for every clock."""


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Keys and groups that begin with the word; after `=` the values of that key or group."""
    from photon.config.explain.reference import choices_of, words

    key, equals, value = incomplete.partition("=")
    if not equals:
        return [CompletionItem(word) for word in words() if word.startswith(incomplete)]
    found = choices_of(key)
    return [CompletionItem(f"{key}={one}") for one in found if one.startswith(value)]


overrides_argument = click.argument(
    "overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_key
)
"""Any key of the configuration."""


def is_override(word: str) -> bool:
    """Where a command takes other words too: `key=value`, or `~key`, which is `key=null`."""
    return "=" in word or word.startswith("~")


class RunPath(click.Path):
    """A run or a checkpoint in one: its path, or its name as `photon runs` lists it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        from photon.run.listing import run_named

        return run_named(Path(str(super().convert(value, param, ctx))))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Names of runs that begin with the word; paths if there are none."""
        from photon.run.listing import RUNS

        names = sorted(path.parent.name for path in RUNS.glob("*/run.json"))
        found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return found or super().shell_complete(ctx, param, incomplete)


resume_option = click.option(
    "--resume",
    "resume_from",
    metavar="RUN",
    type=RunPath(),
    help="Go on with this run; only keys that leave the mathematics alone may be given.",
)
client_option = click.option(
    "--client", type=click.IntRange(0), help="Whose model, with personalised layers."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
quiet_option = click.option(
    "-q/ ",
    "--quiet/--progress",
    "--no-progress/ ",
    "quiet",
    default=False,
    help="Say nothing of how far it is; else lines on standard error.",
)
"""Results and warnings are printed all the same."""


def keys_option(text: str) -> Callable[[Any], Any]:
    """`--keys FOLDER`, the folder of `photon keys`."""
    return click.option("--keys", type=PATH, default=Path("keys"), show_default=True, help=text)


class Quantity(click.ParamType):
    """A number of bytes, or of bytes a second."""

    name = "quantity"

    def __init__(self, example: str) -> None:
        self.example = example

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return self.example

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_quantity(str(value))
        except ValueError as error:
            self.fail(f"{error}, as in {self.example}", param, ctx)


class Number(click.FloatRange):
    """A finite number within bounds, which not-a-number never exceeds."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = super().convert(value, param, ctx)
        if math.isfinite(number):
            return number
        self.fail(f"{value!r}: must be a finite number", param, ctx)


class Amount(click.ParamType):
    """A finite number, of which there is no less than none; `is_positive`: and some."""

    name = "number"

    def __init__(self, *, is_positive: bool = False) -> None:
        self.is_positive = is_positive

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (number > 0 or (number == 0 and not self.is_positive)):
            return number
        least = "more than 0" if self.is_positive else "0 or more"
        self.fail(f"{value!r}: must be a number, {least}", param, ctx)


def require_flower() -> None:
    require_package("flwr", "flower", "several machines need Flower")


def is_first_process() -> bool:
    """Whether this is the first, or the only, process of a `torchrun` job."""
    return os.environ.get("RANK", "0") == "0"
