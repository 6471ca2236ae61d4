"""Where the time of a training process goes while its device stands still.

The stack of the thread that trains is looked at every few milliseconds, so nothing in Photon has to
be prepared for it, and what is done beside the training (in other threads) costs nothing here.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from server_memory import anonymous_megabytes

import photon

EVERY_SECONDS = 0.025
WAIT = "wait"
PARTS = {
    "photon.server.loop:Server._open": "open",
    "photon.node.client_files:ClientFiles.answer": "load",
    "photon.node.client_files:ClientFiles.before": "load",
    "photon.node.client_files:ClientFiles.opened": "load",
    "photon.node.client_host:ClientHost._begin": "load",
    "photon.training.loop:Trainer.load": "load",
    "photon.node.client_host:ClientHost._leave": "encode",
    "photon.node.client_host:ClientHost._finish": "write",
    "photon.node.engine:_arrived": "write",
    "photon.server.loop:Server._close": "aggregate",
    "photon.server.loop:Server._attempt": "record",
    "photon.evaluation.loss:held_out_loss": "validate",
    "photon.server.loop:Server._commit": "commit",
    "photon.server.commits:Commits.settle": "commit",
}
"""Function -> what its time counts as; the innermost that is on the stack decides."""
NAMES = ["open", "load", "encode", "write", "aggregate", "record", "validate", "commit", WAIT]
_HOME = str(Path(photon.__file__).parent)


class Sample(NamedTuple):
    """What the thread was at.

    Attributes:
        at: monotonic clock, which the processes of a machine share.
        seconds: since the look before.
        part: of `NAMES`, or empty while the device is busy.
        function: innermost of Photon's, `core/tree.py:digest`.
        megabytes: of the process, anonymous.
    """

    at: float
    seconds: float
    part: str
    function: str
    megabytes: float


@dataclass
class Profile:
    """What was seen of one process.

    Attributes:
        busy: when the device was, by the monotonic clock.
        before: anonymous megabytes at the beginning.
        held: megabytes that stand for the device's own memory.
    """

    busy: list[tuple[float, float]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    before: float = field(default_factory=anonymous_megabytes)
    held: float = 0.0

    def idle_seconds(self, begin: float, end: float) -> float:
        """Exactly; of the whole time, if there is no device here."""
        busy = sum(max(0.0, min(b, end) - max(a, begin)) for a, b in self.busy)
        return end - begin - busy

    def idle(self, begin: float, end: float) -> Counter[tuple[str, str]]:
        """(part, function) -> its share of the idle seconds, by how often it was seen."""
        seen: Counter[tuple[str, str]] = Counter()
        for sample in self._within(begin, end):
            if sample.part:
                seen[sample.part, sample.function] += sample.seconds
        scale = self.idle_seconds(begin, end) / (seen.total() or 1.0)
        return Counter({key: seconds * scale for key, seconds in seen.items()})

    def peak(self, begin: float, end: float) -> float:
        """Most megabytes, beyond those at the beginning and the device's."""
        most = max((sample.megabytes for sample in self._within(begin, end)), default=self.before)
        return most - self.before - self.held

    def _within(self, begin: float, end: float) -> Iterator[Sample]:
        return (sample for sample in self.samples if begin < sample.at <= end)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Profile:
        said = json.loads(path.read_text())
        samples = [Sample(*one) for one in said.pop("samples")]
        busy = [(begin, end) for begin, end in said.pop("busy")]
        return cls(**said, busy=busy, samples=samples)


class Watch:
    """Looks at the thread that enters it, or the one that says `is_training`, until it is left."""

    def __init__(self) -> None:
        self.profile = Profile()
        self._thread = threading.get_ident()
        self._is_busy = False
        self._done = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._looking.join()

    def begin_training(self) -> float:
        self._thread, self._is_busy = threading.get_ident(), True
        return time.monotonic()

    def end_training(self, begun: float) -> None:
        self._is_busy = False
        self.profile.busy.append((begun, time.monotonic()))

    def _look(self) -> None:
        last = time.monotonic()
        while not self._done.wait(EVERY_SECONDS):
            now, frame = time.monotonic(), sys._current_frames().get(self._thread)
            part, function = ("", "") if self._is_busy else described(frame)
            megabytes = anonymous_megabytes()
            self.profile.samples.append(Sample(now, now - last, part, function, megabytes))
            last = now


def described(frame: FrameType | None) -> tuple[str, str]:
    """What a stack counts as, and the innermost function of Photon's on it."""
    innermost = ""
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_qualname
        if file.startswith(_HOME):
            innermost = innermost or f"{file[len(_HOME) + 1 :]}:{name}"
            if part := PARTS.get(f"{frame.f_globals['__name__']}:{name}"):
                return part, innermost
        frame = frame.f_back
    return WAIT, innermost


def parts_of(
    trainers: Sequence[Profile], server: Profile | None, begin: float, end: float
) -> dict[str, float]:
    """Seconds of all devices together by what they stood still for; the rest is `wait`.

    Args:
        server: a process of its own that all the trainers wait for; None: a trainer is it.
    """
    spent: Counter[str] = Counter(dict.fromkeys(NAMES, 0.0))
    for profile, count in [*((one, 1) for one in trainers), (server, len(trainers))]:
        for (part, _), seconds in profile.idle(begin, end).items() if profile else ():
            spent[part] += seconds * count * (part != WAIT)
    idle = sum(one.idle_seconds(begin, end) for one in trainers)
    spent[WAIT] = max(0.0, idle - sum(spent.values()))
    return dict(spent)


def functions_of(
    profiles: Iterable[Profile], begin: float, end: float
) -> Mapping[tuple[str, str], float]:
    """(part, function) -> seconds that a process without a busy device was in it, most first."""
    spent: Counter[tuple[str, str]] = Counter()
    for profile in profiles:
        spent.update(profile.idle(begin, end))
    return dict(spent.most_common())
