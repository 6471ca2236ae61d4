"""Lines off a terminal: legible from the first, which comes before anything can be foretold."""

from __future__ import annotations

import pytest

from photon.report import progress
from photon.report.console import Console
from photon.report.progress import LINE_SECONDS


@pytest.fixture
def lines(monkeypatch, capsys):
    """What is said at these moments (seconds from the beginning -> share that is done)."""

    def said(moments: dict[float, float]) -> list[str]:
        clock = iter([0.0, *moments])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        with progress.evaluation_progress(Console()) as show:
            for done in moments.values():
                show("book.txt", done)
        return capsys.readouterr().err.splitlines()

    return said


def test_a_line_now_and_then_foretells_what_is_left_once_something_is_done(lines):
    second = 4 * LINE_SECONDS
    assert lines({LINE_SECONDS: 0.0, LINE_SECONDS + 1: 0.1, second: 0.25}) == [
        "evaluating    0%  book.txt",
        f"evaluating   25%  book.txt  {3 * second:.0f} s left",
    ]
