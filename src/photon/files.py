"""Files that appear whole or not at all, locks on files, and texts that people write in them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO


@contextmanager
def new_path(path: Path, suffix: str = ".tmp") -> Iterator[Path]:
    """A path beside another, to write at; it takes the other's place if the block succeeds.

    Args:
        suffix: of its own where several processes may write the same file at a time.
    """
    beside = path.with_name(path.name + suffix)
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def new_file(path: Path, *, durable: bool = True, suffix: str = ".tmp") -> Iterator[BinaryIO]:
    """An open file that appears at `path` when it is complete; see `new_path`.

    Args:
        durable: it is on the disk before it appears, so that a power cut leaves the old or the new.
    """
    with new_path(path, suffix) as beside, open(beside, "wb") as file:
        yield file
        if durable:
            sync(file)


def sync(file: IO[Any]) -> None:
    """Bring what was written to an open file onto the disk."""
    file.flush()
    os.fsync(file.fileno())


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file unless another process has; the lock ends with the last open descriptor."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_shared_lock(descriptor: int) -> None:
    """Lock an open file together with others, once nobody holds it alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is read, changed and replaced, once nobody else does."""
    while True:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file.fileno(), path):
                yield
                return


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def parse_yaml(text: str) -> Any:
    """The value of a text that somebody wrote, none of whose keys is dropped.

    Raises:
        yaml.YAMLError: it is no YAML, or has a key twice.
    """
    import yaml
    from yaml.constructor import ConstructorError

    class EachKeyOnce(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if (what := (key.tag, str(key.value))) in seen:
                    problem = f"{key.value} is there twice"
                    raise ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(what)
            return super().construct_mapping(node, deep)

    return yaml.load(text, EachKeyOnce)
