"""The wheel: built, installed in a fresh environment, used from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def _without_another_source():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh virtual environment that holds the wheel and sees the installed dependencies."""
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", home, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "env"], check=True)
    python = home / "env/bin/python"
    wheel = next(home.glob("*.whl"))
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([sys.executable, *install, wheel], check=True)
    # A .pth line adds the folder without reading the .pth files in it, so the dependencies are
    # seen but an editable installation of Photon there is not.
    (Path(target) / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return home


def call(environment: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [environment / "env/bin/photon", *arguments],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_everything_and_nothing_else(environment):
    names = zipfile.ZipFile(next(environment.glob("*.whl"))).namelist()
    assert "photon/py.typed" in names
    assert "photon/config/groups/recipe/quickstart.yaml" in names
    top = {name.split("/")[0].split("-")[0] for name in names}
    assert top == {"photon", "photon_pretraining"}


def test_help_config_and_a_two_round_training(environment, tmp_path):
    where = "import photon, sys; print(photon.__file__)"
    python = environment / "env/bin/python"
    found = subprocess.run([python, "-c", where], cwd=tmp_path, capture_output=True, text=True)
    assert str(environment) in found.stdout
    assert "photon train" in call(environment, tmp_path, "--help")
    assert "n_rounds: 2" in call(environment, tmp_path, "config", "recipe=smoke")
    out = call(environment, tmp_path, "train", "recipe=smoke", "run_uuid=w", "photon.workers=1")
    assert "unigram model" in out
    summary = json.loads((tmp_path / "runs/w/summary.json").read_text())
    assert summary["rounds"] == 2
    page = tmp_path / call(environment, tmp_path, "report", "runs/w").strip()
    assert "dataset.drawn" in page.read_text()
