"""The scripts with the original's names, run as users run them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from photon.data.shards import Rows
from photon.data.tokenizer import train_tokenizer

SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_c4_dataset.sh"


def bash(command: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command, "bash"],
        cwd=cwd,
        env={**os.environ, "PHOTON_PYTHON": sys.executable, "SCRIPT": str(SCRIPT)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def c4(tmp_path: Path) -> Path:
    """A folder of C4's shape: gzipped JSON lines with text, timestamp and url."""
    folder = tmp_path / "c4"
    folder.mkdir()
    for split, count in (("train", 200), ("validation", 150)):
        name = f"c4-{split}.00000-of-00001.json.gz"
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            for number in range(count):
                text = f"{split} {number} " + "the wind in the tall grass of the steppe " * 10
                record = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"x/{number}"}
                file.write(json.dumps(record) + "\n")
    tokenizer = train_tokenizer(["the wind in the tall grass of the steppe train 0123456789"], 270)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return folder


def test_c4_becomes_the_originals_tree(c4, tmp_path):
    done = bash(
        'bash "$SCRIPT" --project_path out --source c4 dataset.prepare.tokenizer=tokenizer.json '
        "llm_config.max_seq_len=32",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "out" / "fed-c4" / "c8" / "en"
    rows = [
        len(Rows(root / f"client_{client}" / part))
        for client in range(8)
        for part in ("train", "validation")
    ]
    assert min(rows) > 0
    assert len(rows) == 16


@pytest.mark.parametrize("how", ['bash "$SCRIPT"', '. "$SCRIPT"'])
def test_dry_run_prints_the_command_and_leaves_the_shell_alone(how, tmp_path):
    command = f'set -- --project_path P --dry-run; {how} "$@"; echo "$? $- $(pwd)"; false; echo on'
    done = bash(command, tmp_path)
    lines = done.stdout.splitlines()
    assert "-m photon prepare --source c4 --out P/fed-c4/c8/en" in lines[0]
    code, flags, folder = lines[1].split()
    assert (code, folder, lines[2]) == ("0", str(tmp_path), "on")
    assert "e" not in flags


@pytest.mark.parametrize("arguments", ["--project_path", "--nonsense"])
def test_mistakes_are_one_line(arguments, tmp_path):
    done = bash(f'bash "$SCRIPT" {arguments}', tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
