"""The documentation site builds, and its references are complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import photon
from docs_reading import DOCS, PAGES, ROOT, blocks
from photon.cli.main import cli
from photon.run.trackers import read_lines


def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module)
    site = str(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), site],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/commands.html").read_text()
    assert "photon data verify" in page


def test_relative_links_of_the_readme_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert len(links) >= 4
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_command_is_in_the_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from commands_reference import commands_reference

    text = commands_reference()
    for name in cli.list_commands(click.Context(cli)):
        assert f"\n## photon {name}\n" in text
    assert "## photon keys add\n" in text
    assert "`--listen TEXT` | HOST:PORT for nodes." in text


def test_code_that_is_said_to_be_the_real_one_is():
    real = "".join(
        (ROOT / "src/photon" / name).read_text()
        for name in ("core/round.py", "training/outgoing.py")
    )
    shown = [code for language, code in blocks(DOCS / "concepts/round.md") if language == "python"]
    lines = [line for code in shown for line in code.strip().splitlines()]
    assert len(lines) >= 5
    for line in lines:
        assert line in real, line


def documented_keys(section: str) -> set[str]:
    page = (DOCS / "reference/metrics.md").read_text()
    table = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*)", table, re.M)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_key_of_a_run_is_in_the_reference_of_metrics(smoke):
    extra = ["fl.use_unigram_metrics=true", "fl.split_eval=true", "fl.log_layer_norms=true",
             "fl.use_noise_scale_metric=true", "llm_config.eval_first=true",
             "centralized.split_eval=true"]  # fmt: skip
    federated = photon.train(smoke("run_uuid=f", "fl.n_rounds=3", *extra))
    central = photon.train(smoke("run_uuid=c", *extra), centralized=True)
    known, of_client = documented_keys("metrics.jsonl"), documented_keys("client_metrics")
    for result in (federated, central):
        lines = read_lines(Path(result.folder) / "metrics.jsonl")
        assert lines
        for line in lines:
            assert set(line) <= known, set(line) - known
            for metrics in line.get("client_metrics", {}).values():
                assert set(metrics) <= of_client, set(metrics) - of_client
    summary = json.loads((Path(federated.folder) / "summary.json").read_text())
    assert set(summary) | set(summary["federated"]) == documented_keys("summary.json")


def test_no_documented_metric_is_written_by_nothing():
    source = "".join(path.read_text() for path in (ROOT / "src/photon").rglob("*.py"))
    for key in documented_keys("metrics.jsonl") | documented_keys("client_metrics"):
        part = key.split("/")[0].removesuffix("_norm").removeprefix("outer_")
        assert part.removeprefix("trained_") in source, key


def test_pages_are_there_and_have_a_title():
    assert len(PAGES) >= 20
    for page in PAGES:
        assert re.match(r"(# |<!-- Shown from [\w/.]+\. -->)", page.read_text()), page


def test_sphinx_is_among_the_test_extras():
    project = (ROOT / "pyproject.toml").read_text()
    for name in ("sphinx", "myst-parser", "furo"):
        assert project.count(f'"{name}>=') == 2, name
