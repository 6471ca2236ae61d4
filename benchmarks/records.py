"""Logs of benchmarks: a line of JSON per measurement, with what made it.

`docs/results.md` is made of these lines, so each says which command, commit, versions and machine
its figures are of.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import photon

RESULTS = Path(os.environ.get("PHOTON_RESULTS") or Path(__file__).parent / "results")
"""Where the logs lie; another folder is for measuring anew."""
Record = Mapping[str, Any]
"""A line of a log."""


def lines(log: Path) -> list[dict[str, Any]]:
    """What a log has; nothing where there is none.

    Raises:
        SystemExit: naming the line that is none, as the last one of a program that was killed.
    """
    texts = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [_read(text, f"{log}:{number}") for number, text in enumerate(texts, 1)]


def _read(text: str, where: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise SystemExit(f"{where}: no record of a benchmark ({error}); remove the line") from None


def append(log: Path, record: Mapping[str, Any]) -> None:
    """Add a line, with the provenance of this process as `made`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "made": made()}) + "\n")


def is_typed(record: Record) -> bool:
    """Whether its figures were copied from a text, not written by what measured them."""
    return "note" in record.get("made", {})


def current(records: Iterable[Record], *names: str) -> list[Record]:
    """Of what is the same in these names the newest line; copied lines stand together."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        group = groups.setdefault(tuple(record.get(name) for name in names), [])
        if not (group and is_typed(group[-1]) and is_typed(record)):
            group.clear()
        group.append(record)
    return [record for group in groups.values() for record in group]


@cache
def made() -> dict[str, Any]:
    """The provenance of this process's figures."""
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": _commit(),
        "photon": photon.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": machine(),
    }


def machine() -> str:
    """The hardware, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{_processor()}, {os.cpu_count()} cores, {memory} GiB{gpu}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    told = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in told if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout; with a plus where files of `src` differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], **_QUIET).stdout.strip()
        dirty = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ":/src"], **_QUIET)
    except OSError:
        return ""
    return head + "+" * (head != "" and dirty.returncode == 1)


_QUIET: dict[str, Any] = {"capture_output": True, "text": True, "check": False}
