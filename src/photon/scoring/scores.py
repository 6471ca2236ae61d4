"""Finished tasks on disk, so that an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from photon.data.manifest import finite, write_json
from photon.errors import storing
from photon.evaluation.evaluate import Sample
from photon.evaluation.scoring import TaskScore
from photon.files import new_file

RULES = 1
"""Raised when the same data would get another score."""
ABOUT = ("photon", "checkpoint", "tokenizer", "settings")
"""What results depend on besides texts and tasks."""
KINDS = ("losses", "tasks", "failures")


@dataclass(frozen=True, slots=True)
class Finished:
    """One task's result.

    Attributes:
        data: digest of its file.
        seconds: wall-clock time of scoring.
    """

    score: TaskScore
    data: str
    seconds: float


class ScoreFolder:
    """Where the results of one model's evaluation lie.

    Args:
        identity: what all scores depend on: digests of checkpoint and tokenizer, settings.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self.identity = path, {"rules": RULES, **identity}

    def require_writable(self) -> None:
        """Make the folder and try to write there, before anything is scored.

        Raises:
            StorageError: the folder cannot be made, or nothing be written there.
        """
        with self._storing():
            (self.path / "tasks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path / "tasks"):
                pass

    def read(self, key: str, facts: Mapping[str, Any], *, samples: bool) -> Finished | None:
        """A finished task; None if there is none of the same model, settings and data.

        Args:
            samples: whether its samples are needed too.
        """
        try:
            saved = json.loads(self._file(key).read_text(encoding="utf-8"))
            if saved["identity"] != self._identity(facts):
                return None
            if samples and not self.samples(key).stat().st_size:  # none were asked for
                return None
            return Finished(TaskScore(**saved["score"]), saved["data"], saved["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(
        self, key: str, facts: Mapping[str, Any], done: Finished, samples: Iterable[Sample]
    ) -> None:
        """Keep a finished task: its samples first.

        Raises:
            StorageError: the disk is full or refuses.
        """
        with self._storing():
            self._file(key).parent.mkdir(parents=True, exist_ok=True)
            with new_file(self.samples(key), durable=False) as file:
                for sample in samples:
                    file.write(json.dumps(finite(_plain(key, sample))).encode() + b"\n")
            kept = {"identity": self._identity(facts), **asdict(done)}
            write_json(self._file(key), finite(kept))

    def finish(self, name: str, result: dict[str, Any], *, fresh: bool = True) -> None:
        """Write a file of results.

        Args:
            fresh: without those of an earlier evaluation, see `joined`.

        Raises:
            StorageError: the disk is full or refuses.
        """
        path = self.path / name
        with self._storing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not fresh:
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                    result = joined(json.loads(path.read_text(encoding="utf-8")), result)
            write_json(path, result)

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of a line of JSON for each row.

        Raises:
            StorageError: the disk is full or refuses.
        """
        with self._storing(), new_file(self.path / name, durable=False) as file:
            for row in rows:
                file.write(json.dumps(row, default=str).encode() + b"\n")

    def samples(self, key: str) -> Path:
        return self._file(key).with_suffix(".samples.jsonl")

    def join_samples(self, keys: Iterable[str]) -> Path:
        """All samples in one file."""
        path = self.path / "samples.jsonl"
        with self._storing(), open(path, "w", encoding="utf-8") as out:
            for key in keys:
                out.write(self.samples(key).read_text(encoding="utf-8"))
        return path

    def _storing(self) -> AbstractContextManager[None]:
        remedy = "; free some space, or name another folder by eval_gauntlet_config.destination_dir"
        return storing(self.path, "cannot write results", remedy)

    def _file(self, key: str) -> Path:
        """Of a task, `label/k-shot`: another for each, though not every label can name a file."""
        label, _, shots = key.rpartition("/")
        plain = re.sub(r"[^A-Za-z0-9_-]", "_", label)[:100]
        if plain != label:
            plain += "-" + hashlib.sha256(label.encode()).hexdigest()[:8]
        return self.path / "tasks" / f"{plain}_{shots}.json"

    def _identity(self, facts: Mapping[str, Any]) -> str:
        """Digest of what a task's score depends on: the model's identity and the task's facts."""
        text = json.dumps([self.identity, facts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def joined(earlier: Mapping[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Results with those of an earlier evaluation, of the same model and settings, of what this one
    did not score. Composites stay as long as no score has changed.
    """
    if any(earlier[key] != result[key] for key in ABOUT):
        return result
    told = {name for kind in KINDS for name in result[kind]}
    both = {
        kind: {name: one for name, one in earlier[kind].items() if name not in told} | result[kind]
        for kind in KINDS
    }
    is_same = all(both["tasks"].get(name) == one for name, one in earlier["tasks"].items())
    composites = result["composites"] or (earlier["composites"] if is_same else [])
    return {**result, **both, "composites": composites}


def _plain(key: str, sample: Sample) -> dict[str, Any]:
    """A sample as a line of JSON."""
    return {
        "task": key,
        "line": sample.prompt.line,
        "category": sample.category,
        "gold": sample.gold,
        "prediction": sample.outcome.prediction,
        "credit": sample.outcome.credit,
        "nll": [score.nll for score in sample.scores],
        "tokens": [score.num_tokens for score in sample.scores],
        "is_greedy": [score.is_greedy for score in sample.scores],
        "truncated": sample.prompt.is_truncated,
        "finite": sample.outcome.is_finite,
    }
