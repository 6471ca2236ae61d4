"""What the documents show: their code blocks, and the commands in these."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Fenced blocks of a page in order: language, code."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.M | re.S)


def commands(code: str) -> Iterator[list[str]]:
    """Arguments of each `photon` in a shell script, whatever starts it (srun, torchrun)."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "photon" in words and words[0] not in ("pip", "bash"):
            yield words[words.index("photon") + 1 :]
