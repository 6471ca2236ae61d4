"""A prepared data set appears whole or not at all, and an interrupted one goes on.

It is made in a hidden folder beside its place and renamed when it is complete. A folder with a
journal is taken up again; one without holds nothing worth keeping and is cleared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from photon.data.manifest import MANIFEST, read_whole, sum_of_parts, write_json
from photon.data.prepare.encode import Encoder
from photon.data.prepare.pipeline import (
    JOURNAL,
    DatasetSpec,
    Phase,
    Pipeline,
    Progress,
    read_journal,
)
from photon.data.prepare.routing import Position
from photon.data.tokenization import KEY, resolved
from photon.data.tokenizer import load_tokenizer, save_tokenizer, tokenizer_digest, vocab_size
from photon.errors import DataError, PhotonError, storing
from photon.files import is_at, try_lock
from photon.say import Say

TOKENIZER = "tokenizer.json"
_LOCK = "lock"
_OF_A_DISK = "lost+found"
"""What an empty file system may hold."""
_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What decides the bytes of a data set; equal inputs, equal data.

    Attributes:
        settings: named values.
        defaults: of settings that are not named, now or when the data was made.
        changed: says how the source's files differ from a record of them, None if they do not.
    """

    settings: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    changed: Callable[[Sequence[dict[str, Any]]], str | None] = lambda recorded: None

    def difference(self, settings: Mapping[str, Any], files: Sequence[dict[str, Any]]) -> str:
        """In which way earlier inputs were others, in words; empty if they were not."""
        made = {"vocab_size"} - self.settings.keys()  # was found, not asked for
        for key in dict.fromkeys((*self.settings, *settings)):
            had, asked = (s.get(key, self.defaults.get(key)) for s in (settings, self.settings))
            if had != asked and key not in made:
                return f"prepared with {key}={had}, asked for {key}={asked}"
        changed = self.changed(files)
        return f"prepared from other text ({changed})" if changed else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to make a data set.

    Attributes:
        phases: where documents come from and go.
        make_tokenizer: opens or trains it.
        bos_text, eos_text: tokens around each document, as of `tokenization.resolved`.
        describe_files: the source's files as the manifest names them, from how far each phase is.
        require_unchanged: refuses files of the source that were changed meanwhile.
        copies: documents left out because their text is another's.
        left_out: files of the source that are not read, by reason.
    """

    spec: DatasetSpec
    phases: Sequence[Phase]
    make_tokenizer: Callable[[], Tokenizer]
    bos_text: str | None = None
    eos_text: str | None = None
    describe_files: Callable[[Sequence[Position | None]], list[dict[str, Any]]] = lambda ends: []
    require_unchanged: Callable[[], None] = lambda: None
    copies: int = 0
    left_out: Mapping[str, Any] = field(default_factory=dict)


def assemble(
    root: Path,
    inputs: Inputs,
    make_plan: Callable[[], Plan],
    say: Say,
    report: Callable[[Progress], None],
) -> dict[str, Any]:
    """Make a data set, or go on with one; nothing if it is there already. Gives its manifest.

    Args:
        make_plan: called only if there is something to make.

    Raises:
        DataError: the folder holds other data, or the text is too little.
        StorageError: the disk is full; what was finished earlier is untouched.
    """
    if (root / MANIFEST).exists():
        return _same_or_refuse(root, inputs)
    _require_free(root)
    with storing(root, "cannot write prepared data"), _locked(root, say) as folder:
        if (root / MANIFEST).exists():  # another process has made it while this one waited
            return _same_or_refuse(root, inputs)
        if (folder / MANIFEST).exists():  # whole, but not yet in its place
            manifest = _same_or_refuse(folder, inputs)
        else:
            with _tidy(folder):
                _take_up(folder, inputs, say)
                manifest = _make(folder, inputs, make_plan(), say, report)
        _put_in_place(folder, root.resolve())
    return manifest


def _same_or_refuse(root: Path, inputs: Inputs) -> dict[str, Any]:
    """The manifest of data made from these inputs; of data made from others what differs."""
    manifest = read_whole(root)
    if difference := inputs.difference(manifest["settings"], manifest.get("files", [])):
        raise DataError(f"{root}: holds data {difference}; name another folder or remove this one")
    return manifest


def unfinished(root: Path) -> Path:
    """Folder in which a data set is made: beside its place, or in it where that is there already,
    since a mount point or the folder in which somebody stands cannot be replaced.
    """
    place = root.resolve()
    name = f".{place.name}-unfinished"
    beside = place.parent / name
    return place / name if place.is_dir() and not beside.exists() else beside


def _require_free(root: Path) -> None:
    """Refuse a place that holds anything but an unfinished preparation."""
    folder = unfinished(root)
    if not root.exists() or (root.is_dir() and (folder / MANIFEST).exists()):
        return
    if not root.is_dir() or set(os.listdir(root)) - {folder.name, _OF_A_DISK}:
        raise DataError(f"{root}: is not empty and holds no prepared data; name another folder")


def _put_in_place(folder: Path, place: Path) -> None:
    """Let a data set appear; where its folder is there already, the manifest comes last."""
    # A site's text as numbers: nothing for a repository that the folder happens to lie in.
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / JOURNAL).unlink(missing_ok=True)
    if folder.parent != place:
        os.rename(folder, place)
        (place / _LOCK).unlink()
        return
    for name in sorted({*os.listdir(folder)} - {_LOCK}, key=lambda name: name == MANIFEST):
        os.rename(folder / name, place / name)
    shutil.rmtree(folder)


def _take_up(folder: Path, inputs: Inputs, say: Say) -> None:
    journal = read_journal(folder)
    if journal is None:
        for path in folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif difference := inputs.difference(**journal["key"]):
        raise DataError(
            f"{folder}: holds an interrupted preparation, {difference}; remove it to begin anew"
        )
    else:
        say(f"resuming    after {journal['totals']['documents']:,} documents")


def _make(
    folder: Path, inputs: Inputs, plan: Plan, say: Say, report: Callable[[Progress], None]
) -> dict[str, Any]:
    path = folder / TOKENIZER
    if not path.exists():
        save_tokenizer(plan.make_tokenizer(), path)
    tokenizer = load_tokenizer(path)
    size = vocab_size(tokenizer)
    say(f"tokenizer   {size:,} tokens")

    def describe(ends: Sequence[Position | None]) -> dict[str, Any]:
        return {"settings": dict(inputs.settings), "files": plan.describe_files(ends)}

    pipeline = Pipeline(folder, plan.spec, size, describe)
    try:
        encoder = Encoder(tokenizer, resolved(tokenizer, plan.bos_text, plan.eos_text))
        pipeline.run(plan.phases, encoder, report)
        plan.require_unchanged()
        files, digest = plan.describe_files(pipeline.ends), tokenizer_digest(path)
        if not pipeline.totals.written:
            raise _no_text(files, inputs)
        parts = pipeline.finish({"tokenizer": digest})
    finally:
        pipeline.close()
    manifest = {
        **sum_of_parts(parts),
        "settings": {"vocab_size": size, **inputs.settings},
        "tokenizer": digest,
        KEY: encoder.facts.as_json(),
        "files": files,
        "left_out": dict(plan.left_out),
        "totals": _totals(plan, pipeline, parts),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _totals(
    plan: Plan, pipeline: Pipeline, parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    counted = ("rows", "tokens", "remainder_tokens", "first_tokens", "text_bytes")
    counts = {name: sum(part[name] for part in parts.values()) for name in counted}
    return {"copies": plan.copies, **asdict(pipeline.totals), **counts}


def _no_text(files: Sequence[Mapping[str, Any]], inputs: Inputs) -> DataError:
    names = [str(file["file"]) for file in files[:3]] or [str(inputs.settings.get("source"))]
    more = ", ..." if len(files) > len(names) else ""
    return DataError(
        f"{', '.join(names)}{more}: every text is empty; add text, or name the column that holds "
        "it, dataset.prepare.text_column"
    )


@contextlib.contextmanager
def _tidy(folder: Path) -> Iterator[None]:
    """Remove the folder on an error, unless a journal says that work in it can be taken up."""
    try:
        yield
    except (PhotonError, OSError):
        if not (folder / JOURNAL).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def _locked(root: Path, say: Say) -> Iterator[Path]:
    """The folder in which to make `root`, for one process at a time."""
    folder, deadline = unfinished(root), time.monotonic() + _WAIT_SECONDS
    has_said = False
    while (descriptor := _try_lock(folder)) is None:
        if time.monotonic() > deadline:
            raise DataError(f"{folder}: another process is preparing {root}; wait for its end")
        if not has_said:
            say(f"waiting     another process is preparing {root}")
        has_said = True
        time.sleep(0.5)
    try:
        yield folder
    finally:
        os.close(descriptor)
        if (folder / _LOCK).exists() and len(os.listdir(folder)) == 1:
            shutil.rmtree(folder, ignore_errors=True)


def _try_lock(folder: Path) -> int | None:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if try_lock(descriptor) and is_at(descriptor, folder / _LOCK):
        return descriptor
    os.close(descriptor)
    return None
