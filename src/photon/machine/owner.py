"""Which process holds something: no other one that has its number, later or elsewhere, is it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes:
        pid: in its namespace.
        started: of `start_time`.
        place: where its number counts: this boot of this machine, this namespace.
        host: what people call the machine.
    """

    pid: int
    started: str
    place: str
    host: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        pid = os.getpid()
        return cls(pid, start_time(pid), _place(), platform.node())

    @classmethod
    def of_line(cls, line: bytes) -> Owner | None:
        """What `line` has written; None: anything else."""
        try:
            said: Any = json.loads(line)
            pid, *texts = (said[name] for name in cls.__slots__)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        is_one = type(pid) is int and pid > 0 and all(isinstance(text, str) for text in texts)
        return cls(pid, *texts) if is_one else None

    @property
    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @property
    def is_here(self) -> bool:
        """Whether this process could signal it, were it alive."""
        return self.place == _place()

    @property
    def is_alive(self) -> bool:
        """Of one that is here."""
        return self.is_here and start_time(self.pid) == self.started


def start_time(pid: int) -> str:
    """When a process began, in the kernel's ticks (0 where it does not say); empty: it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass  # another user's
    return "0"


def namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return "0"


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = platform.node()
    return f"{boot}/{namespace()}"
