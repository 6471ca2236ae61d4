"""A run's chain on disk: `chain.jsonl`, a line for each commit, which no checkpoint outlives.

A link is written into its checkpoint's manifest, so that it is there if and only if the commit is,
and then, durably, behind the others, before any checkpoint is pruned. What a crash leaves out is
taken from the manifests at the next start. Nothing is ever cut off: a run that goes back to an
earlier round says so in a link.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from photon.chain.link import (
    Head,
    Kind,
    Link,
    digest_of_entries,
    digest_of_facts,
    digest_of_refused,
    mark_of,
    parse_link,
)
from photon.chain.said import Said
from photon.core.messages import ServerState
from photon.core.parts import parts_of
from photon.data.tokenizer import tokenizer_digest
from photon.errors import CheckpointError, PayloadError, storing, warn
from photon.files import sync
from photon.run import artifact
from photon.run.artifact import Artifact
from photon.run.checkpoint import list_checkpoints
from photon.run.run_folder import read_facts
from photon.wire.signatures import Seal

FILE = "chain.jsonl"
ABOUT = ("config_digest", "data_digest", "photon", "torch", "numpy", "python", "machine")
"""Facts of run.json that the first link has."""
COPIED = "copied"
"""In run.json of a copied run: what it goes on from."""


class Chain:
    """The chain of a run that is open here.

    Args:
        folder: of the run.
        name: of the run.
        seal: signs; None: there is no key.

    Attributes:
        last: the newest link.
    """

    def __init__(self, folder: Path, name: str, seal: Seal | None) -> None:
        self.folder, self.name, self.seal = folder, name, seal
        self.last: Link | None = None

    @classmethod
    def opened(cls, folder: Path, name: str, seal: Seal | None, seed: int) -> Chain:
        """The chain up to the newest checkpoint, which is begun here if there is none yet.

        Raises:
            StorageError: it cannot be written.
            CheckpointError: there is no sound checkpoint.
            DataError: it is begun, and the run's tokenizer is missing.
        """
        chain = cls(folder, name, seal)
        chain.last = _last_link(whole_lines(folder / FILE))
        checkpoints = list_checkpoints(folder / "checkpoints")
        for path in checkpoints:
            chain._complete(link_in(path))
        newest = artifact.read(checkpoints[-1])
        if chain.last is None:
            tokenizer = tokenizer_digest(folder / "tokenizer.json")
            about = {"seed": str(seed), "tokenizer": tokenizer, **_about(read_facts(folder))}
            chain.append(chain._of_checkpoint("begin", newest, about))
        elif not is_of(chain.last.head, newest):
            chain.append(chain._of_checkpoint("rewound", newest))
        return chain

    def made(
        self,
        state: ServerState,
        said: Said,
        record: Mapping[str, Any] | None,
        digests: Mapping[str, str],
    ) -> Link:
        """The next link, which is not there before `append`.

        Args:
            record: the round's line of metrics.jsonl.
            digests: of the containers of the checkpoint.
        """
        assert self.last is not None
        head = Head.model_validate(
            {
                "number": self.last.head.number + 1,
                "previous": self.last.head.hash,
                "run": self.name,
                "kind": said.kind,
                "round": state.round,
                "step": state.step,
                "tokens": state.num_tokens,
                "state": {**digests, "facts": digest_of_facts(parts_of(state)[1])},
                "plan": said.plan,
                "record": mark_of(record),
                "updates": digest_of_entries([entry.hash for entry in said.updates]),
                "refused": digest_of_refused(said.refused),
                "key": self.seal.key if self.seal else "",
            }
        )
        link = Link(head=head, updates=list(said.updates), refused=dict(said.refused))
        return link.signed_by(self.seal)

    def append(self, link: Link) -> None:
        """Write a link down, durably.

        Raises:
            StorageError: the disk is full or refuses to write.
        """
        path = self.folder / FILE
        with storing(path), open(path, "ab") as file:
            file.truncate(whole_length(path))  # of what a crash has torn
            file.write(link.line() + b"\n")
            sync(file)
        self.last = link

    def _complete(self, link: Link | None) -> None:
        """Append what a crash has kept from being appended."""
        number = self.last.head.number + 1 if self.last else 0
        if link is None or link.head.number < number:
            return
        if link.head.number > number:
            self._tell_lost(number, link.head.number - 1)
        self.append(link)

    def _tell_lost(self, first: int, last: int) -> None:
        what = f"link {first}" if first == last else f"links {first} to {last}"
        message = (
            f"{self.folder / FILE}: lost {what} of the run's history, as `photon verify` will say; "
            "the run goes on: if there is a copy of this file, stop the run and put it back"
        )
        warn(message)

    def _of_checkpoint(
        self, kind: Kind, saved: Artifact, about: Mapping[str, str] | None = None
    ) -> Link:
        state = saved.facts["state"]
        head = Head.model_validate(
            {
                "number": self.last.head.number + 1 if self.last else 0,
                "previous": self.last.head.hash if self.last else "",
                "run": self.name,
                "kind": kind,
                "round": state["round"],
                "step": state["step"],
                "tokens": state["num_tokens"],
                "state": state_of(saved),
                "record": mark_of(saved.facts.get("record")),
                "updates": digest_of_entries([]),
                "refused": digest_of_refused({}),
                "key": self.seal.key if self.seal else "",
                "about": dict(about or {}),
            }
        )
        return Link(head=head).signed_by(self.seal)


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a chain, without one that a crash has torn; none if there is no file."""
    try:
        return path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def whole_length(path: Path) -> int:
    """Bytes of a file up to the end of its last whole line."""
    with open(path, "rb") as file:
        at = file.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - 4096)
            file.seek(start)
            if (found := file.read(at - start).rfind(b"\n")) >= 0:
                return start + found + 1
            at = start
    return 0


def link_in(manifest: Path) -> Link | None:
    """The link of a checkpoint; None: it has none, or is damaged, as is told when it is used."""
    with suppress(CheckpointError, PayloadError):
        said = artifact.read(manifest).facts.get("link")
        return parse_link(said.encode()) if isinstance(said, str) else None
    return None


def is_of(head: Head, saved: Artifact) -> bool:
    """Whether a link is of the state of a checkpoint."""
    return head.round == saved.facts["state"]["round"] and head.state == state_of(saved)


def state_of(saved: Artifact) -> dict[str, str]:
    """What a link says of the state of a checkpoint."""
    return {**saved.digests, "facts": digest_of_facts(saved.facts["state"])}


def merged_rounds(links: Iterable[Link]) -> set[int]:
    """Rounds in which updates were merged, whether or not the run has gone back since."""
    return {one.head.round for one in links if one.head.kind == "round" and one.updates}


def merged_in(folder: Path) -> set[int]:
    """The same of a run."""
    return merged_rounds(readable(whole_lines(folder / FILE)))


def rounds_in(folder: Path) -> set[int]:
    """Rounds of a run that links are of."""
    return {head.round for head in heads_in(folder)}


def heads_in(folder: Path) -> list[Head]:
    """Heads of the links of a run, as they are now."""
    return [link.head for link in readable(whole_lines(folder / FILE))]


def hash_in(manifest: Path) -> str:
    """Hash of the link of a checkpoint; empty if it has none."""
    link = link_in(manifest)
    return link.head.hash if link else ""


def _last_link(lines: list[bytes]) -> Link | None:
    """The newest one that can be read: damage is no reason not to go on, and `photon verify` names
    it.
    """
    return next(readable(reversed(lines)), None)


def readable(lines: Iterable[bytes]) -> Iterator[Link]:
    """The links of lines; one that is damaged is left to `photon verify`."""
    for line in lines:
        with suppress(PayloadError):
            yield parse_link(line)


def _about(facts: Mapping[str, Any]) -> dict[str, str]:
    known = {key: str(facts[key])[:200] for key in ABOUT if key in facts}
    copied = facts.get(COPIED) or {}
    return known | {f"copied_{key}": str(value)[:200] for key, value in copied.items()}
