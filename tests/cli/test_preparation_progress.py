"""The line of `photon prepare`, for books as for short documents."""

from __future__ import annotations

import pytest

from photon.data.prepare.pipeline import Progress
from photon.report.progress import preparation_text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (
            Progress(3, 70_000, 3, 70_000, 10.0, 0.001, None),
            "preparing   3 documents (0.3/s)  70,000 tokens (7,000/s)  0%",
        ),
        (
            Progress(900, 50_000, 800, 40_000, 8.0, 0.5, 0.1),
            "preparing   900 documents (100/s)  50,000 tokens (5,000/s)  50%  0:00:10 left",
        ),
        (
            Progress(900, 50_000, 0, 0, 5.0, 0.1, 0.1),
            "preparing   900 documents (0.0/s)  50,000 tokens (0.0/s)  10%",
        ),
        (
            Progress(8, 9, 8, 9, 1.0, None, None),
            "preparing   8 documents (8.0/s)  9 tokens (9.0/s)",
        ),
    ],
)
def test_what_is_done_and_what_is_left_once_it_can_be_told(progress, text):
    assert preparation_text(progress) == text
