"""The training of one client in one round, in segments, as far as it has come."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace

from photon.config.llm import Inner
from photon.core.messages import Instruction
from photon.data.read.stream import JoinedStream
from photon.machine.device import training_memory_kept
from photon.node.client_files import ClientFiles
from photon.node.measure import Measured, SegmentMeter, Spent
from photon.node.pace import Pace
from photon.run.live import FILE, Beacon, StepBeacon
from photon.training.loop import Trainer
from photon.training.state import Segment


class Stopped(Exception):
    """Training stopped between two steps, as asked."""


@dataclass(slots=True)
class Course:
    """What is known of it, beside what is in the trainer.

    Attributes:
        instruction: as given; or as foreseen, while the round is not open yet.
        spent: seconds of the device.
        measured: of its steps.
        metrics: what else the client will report.
        is_resumed: whether it goes on from a segment that was saved.
        has_arrived: whether the base has taken the place of what it began with.
        descent: of the client's state afterwards, see `core.held`.
    """

    instruction: Instruction
    spent: Spent = field(default_factory=Spent)
    measured: Measured = field(default_factory=Measured)
    metrics: dict[str, float] = field(default_factory=dict)
    is_resumed: bool = False
    has_arrived: bool = False
    descent: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """All that the client reports of it."""
        return {**self.measured.numbers, **self.metrics, **self.spent.metrics}


def is_of(begun: Instruction, asked: Instruction, done: int) -> bool:
    """Whether training that has begun under one instruction is what another asks for.

    Before its base arrives nobody knows that, nor how far the server's step of that round goes, nor
    how many steps it has, and no step depends on it.

    Args:
        done: steps that have been taken.
    """
    known = asked.descent or begun.descent
    unknown = {"base_digest": "", "part": 0.0, "again": 0.0, "local_steps": 0, "ahead": 0}
    is_alike = replace(begun, **unknown) == replace(asked, **unknown, descent=known)
    return is_alike and done <= asked.ahead > 0


class Segments:
    """Runs courses in one trainer.

    Args:
        files: where segments are saved.
        step_seconds: that a step takes at least.
    """

    def __init__(
        self, trainer: Trainer, files: ClientFiles, inner: Inner, step_seconds: float
    ) -> None:
        self.trainer, self.files, self.inner = trainer, files, inner
        self.step_seconds = step_seconds
        self._measure = SegmentMeter(trainer)

    def run(
        self,
        course: Course,
        until: int,
        stream: JoinedStream,
        should_stop: Callable[[], bool],
        may_save: bool = True,
    ) -> int:
        """Train up to a step of the round, saving between segments; gives the steps taken.

        Args:
            may_save: or else what has been done is lost with this process.

        Raises:
            Stopped: before that step, as `should_stop` said.
        """
        begun = self.trainer.state.steps_done
        if begun >= until:
            return 0
        home = self.files.home(course.instruction.client)
        beacon = Beacon(home / FILE if self.trainer.world.is_first else None)
        pace = Pace(self.step_seconds, should_stop)
        watched = StepBeacon(
            beacon, pace, {"round": course.instruction.round}, done=begun,
            total=course.instruction.local_steps, tokens=self.inner.tokens_per_step,
        )  # fmt: skip
        with closing(beacon):
            while (left := until - self.trainer.state.steps_done) > 0:
                steps = min(left, self.inner.segment_steps)
                segment = self._segment(course, stream, steps, watched, pace)
                if segment.state.steps_done < until:
                    if may_save:
                        self._save(course)
                    if should_stop():
                        raise Stopped
        return self.trainer.state.steps_done - begun

    def _segment(
        self,
        course: Course,
        stream: JoinedStream,
        steps: int,
        should_stop: Callable[[], bool],
        pace: Pace,
    ) -> Segment:
        with course.spent.on("train") as taking, training_memory_kept():
            segment = self.trainer.train(stream, steps, should_stop)
            pace.end_step()
        if segment.taken:
            numbers = self._measure(segment, taking())
            course.measured = course.measured.and_then(len(segment.taken), numbers)
        return segment

    def _save(self, course: Course) -> None:
        with course.spent.on("write"):
            snapshot = self.trainer.snapshot()
            if self.trainer.world.is_first:
                self.files.keep_open(course.instruction, snapshot, course.has_arrived)
