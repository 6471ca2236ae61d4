"""The page in a real browser: every plot is drawn, and nothing is complained about."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import photon
from photon.cli.main import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=10000"]  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "PHOTON_REQUIRE_CHROMIUM" not in os.environ,
    reason="needs Chromium (apt-get install chromium)",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory, data_root) -> Path:
    """A page that compares a federated run with its baselines and a centralised run."""
    root = tmp_path_factory.mktemp("runs")
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}", f"photon.saving_path={root}"]
    photon.train([*keys, "run_uuid=a", "fl.n_rounds=3"])
    photon.train([*keys, "run_uuid=b"], centralized=True)
    path = root / "page.html"
    assert run(["report", str(root / "a"), str(root / "b"), "--out", str(path)]) == 0
    return path


def browse(page: Path, tmp_path: Path, *options: str) -> tuple[str, list[str]]:
    """What Chromium prints, and what its console says."""
    assert CHROMIUM, "PHOTON_REQUIRE_CHROMIUM is set, and there is no Chromium"
    command = [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def drawn(html: str) -> set[str]:
    """Keys of the plots whose element holds a drawing."""
    parts = re.split(r'<div id="([\w-]+)" class="js-plotly-plot">', html)
    return {key for key, part in zip(parts[1::2], parts[2::2], strict=True)
            if 'class="main-svg"' in part}  # fmt: skip


def test_every_plot_is_drawn_without_a_complaint(page, tmp_path):
    expected = set(re.findall(r'<div id="([\w-]+)"></div>', page.read_text()))
    html, complaints = browse(page, tmp_path, "--dump-dom")
    assert complaints == []
    assert f'data-drawn="{len(expected)}"' in html
    assert drawn(html) == expected
    assert {"loss", "sent", "throughput", "run0-participation"} <= expected


def test_a_plot_that_cannot_be_drawn_is_seen(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace('<div id="sent">', '<div id="gone">'))
    html, complaints = browse(broken, tmp_path, "--dump-dom")
    assert complaints
    assert "data-drawn" not in html.partition("<script")[0]


def paper(path: Path) -> tuple[int, int, int]:
    """Colour of a corner of a screenshot."""
    from matplotlib.image import imread

    corner = imread(path)[2, 2, :3]
    return tuple(round(float(channel) * 255) for channel in corner)


@pytest.mark.parametrize(
    ("scheme", "colour"), [("1", (255, 255, 255)), ("0", (20, 23, 27))], ids=["light", "dark"]
)
def test_it_follows_the_readers_colours_on_a_phone(page, tmp_path, scheme, colour):
    shot = tmp_path / "shot.png"
    browse(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}",
           "--window-size=420,900", f"--screenshot={shot}")  # fmt: skip
    assert paper(shot) == colour
