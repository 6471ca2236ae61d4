"""Prints the rooms of the source: purpose, files, lines, `Config` parameters, what imports what.

Exits with 1, and says why, if an import goes up, makes a circle, or a room is too large.

    python scripts/rooms.py
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "photon"
RANKS: dict[str, int] = {
    "config": 0, "config.between": 0, "config.explain": 0,
    "errors": 0, "files": 0, "points": 0, "say": 0,
    "core": 1, "core.robust": 1, "core.trust": 1, "codecs": 1,
    "container": 2, "privacy": 2, "secure": 2,
    "model": 2, "data": 2, "data.mds": 2, "data.prepare": 2, "data.read": 2,
    "training": 3, "evaluation": 3,
    "machine": 4, "wire": 4, "run": 4, "chain": 4, "hub": 4, "tracking": 4,
    "server": 5, "node": 5, "scoring": 5,
    "experiment": 6, "flower": 6, "simulation": 6,
    "report": 7, "cli": 7, "api": 7, "__main__": 7,
}  # fmt: skip
STRANGERS = [
    {"model", "data", "container", "secure"},
    {"training", "evaluation"},
    {"server", "node", "scoring"},
]
"""Rooms of one rank that do not know each other."""
MOST_FILES = 20
LARGEST_SHARE = 1 / 6
MOST_CONFIGS = 15
"""Parameters of type `Config` in all: below the doors functions take sections and values."""


@dataclass(slots=True)
class Room:
    """Attributes:
    arrows: other room -> the lines that import it, as `file:line`.
    """

    name: str
    purpose: str = ""
    files: int = 0
    lines: int = 0
    configs: int = 0
    arrows: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def room_of(module: str) -> str:
    """The room of a module below `photon`, named with dots; the nearest that the table has."""
    while module and module not in RANKS:
        module = module.rpartition(".")[0]
    return module


def read_rooms(source: Path = SOURCE) -> dict[str, Room]:
    """Read all rooms of a source tree; a file of no room is in the room `""`."""
    rooms: dict[str, Room] = {}
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        module = ".".join(relative.with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if not module:  # the package itself names what it exports lazily
            continue
        room = rooms.setdefault(room_of(module), Room(room_of(module)))
        _read_file(path, relative, module, room)
    return rooms


def _read_file(path: Path, relative: Path, module: str, room: Room) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    if module == room.name:
        room.purpose = (ast.get_docstring(tree) or "").partition("\n")[0]
    room.files += path.name != "__init__.py"
    room.lines += text.count("\n")
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            room.configs += ast.unparse(node.annotation).strip("'\"") == "Config"
        for name in _imported(node):
            other = room_of(name.removeprefix("photon."))
            if other and other != room.name:
                room.arrows[other].append(f"{relative}:{getattr(node, 'lineno', 0)}")


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = []
    return [name for name in names if name.startswith("photon.")]


def faults(rooms: dict[str, Room]) -> list[str]:
    """What breaks the plan of the house, a line each."""
    found = [f"{room.name or 'a file'}: has no rank" for room in rooms.values() if not room.name]
    for room in (room for room in rooms.values() if room.name):
        for other, places in room.arrows.items():
            if RANKS[other] > RANKS[room.name]:
                found.append(f"{places[0]}: {room.name} imports {other} of a higher rank")
            tops = {_top(room.name), _top(other)}
            if len(tops) == 2 and any(tops <= strangers for strangers in STRANGERS):
                found.append(f"{places[0]}: {room.name} and {other} do not know each other")
    total = sum(room.lines for room in rooms.values())
    for room in rooms.values():
        if room.files > MOST_FILES:
            found.append(f"{room.name}: has {room.files} files, at most {MOST_FILES}")
        if room.lines > total * LARGEST_SHARE:
            found.append(f"{room.name}: has {room.lines:,} of {total:,} lines, a sixth at most")
    configs = sum(room.configs for room in rooms.values())
    if configs > MOST_CONFIGS:
        found.append(f"{configs} parameters are of type Config, at most {MOST_CONFIGS}")
    circle = _circle(rooms)
    return [*found, f"a circle: {' -> '.join(circle)}"] if circle else found


def _top(room: str) -> str:
    return room.partition(".")[0]


def _circle(rooms: dict[str, Room]) -> list[str]:
    """Rooms that import each other in a circle, the first again at the end; empty if none do."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done or name not in rooms:
            return []
        for other in rooms[name].arrows:
            if circle := visit(other, [*way, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in rooms if (circle := visit(name, []))), [])


def main() -> int:
    rooms = read_rooms()
    for room in sorted(rooms.values(), key=lambda r: (-RANKS.get(r.name, 0), r.name)):
        counts = f"{room.files:3} files {room.lines:6,} lines {room.configs:3} Config"
        print(f"{RANKS.get(room.name, '?')} {room.name:<13}{counts}  {room.purpose}")
        if room.arrows:
            arrows = (f"{name} {len(places)}" for name, places in sorted(room.arrows.items()))
            print(f"    -> {', '.join(arrows)}")
    lines, configs = (sum(getattr(r, key) for r in rooms.values()) for key in ("lines", "configs"))
    print(f"{len(rooms)} rooms, {lines:,} lines, {configs} parameters of type Config")
    wrong = faults(rooms)
    for line in wrong:
        print(f"rooms: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
