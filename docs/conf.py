"""How Sphinx makes the site: `sphinx-build -W docs site`."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import photon

sys.path.insert(0, str(Path(__file__).parent))
from commands_reference import commands_reference

project, author, release = "Photon", "The Photon authors", photon.__version__
html_title = f"Photon {release}"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 3
default_role = "code"  # docstrings write `name` as Markdown does
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # "Attributes:" of a dataclass are not its members a second time


def _add_commands(app: Any, docname: str, source: list[str]) -> None:
    """The commands are described by click itself at each build; nothing is committed."""
    if docname == "reference/commands":
        source[0] += commands_reference()


def _plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: a bar is a bar, and aligned columns of a module's are kept."""
    if what == "module":
        parts = "\n".join(lines).split("\n\n")
        aligned = [re.search(r"\S {2,}\S", part) is not None for part in parts]
        parts = [
            "::\n\n" + textwrap.indent(part, "   ") if keep else part.replace("|", "\\|")
            for part, keep in zip(parts, aligned, strict=True)
        ]
        lines[:] = "\n\n".join(parts).split("\n")
    else:
        lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain_text)
    app.connect("source-read", _add_commands)
