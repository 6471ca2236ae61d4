"""The commands that the documents show are those of the program, and the guides run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest

import photon
from docs_reading import DOCS, PAGES, ROOT, blocks, commands
from photon.cli.main import cli, run
from photon.config import load_config
from photon.config.between.resume import apply_evaluation_overrides

SMALL = {
    "train": ["recipe=smoke", "fl.eval_period=1", "llm_config.max_duration=4"],
    "prepare": ["recipe=smoke", "dataset.prepare.tokenizer_bytes=100000"],
    "generate": ["--max-new-tokens", "2"],
    "simulate": ["fl.n_rounds=2"],
}
"""What scales a command of a guide down; the guide's own keys come first."""
GUIDES = ["first-run", "your-own-data", "watching-a-run", "simulate", "evaluate-and-export"]

NOT_HERE = re.compile(
    r"use_wandb|s3://|--harness|c4|8_clients|icl_tasks_config|--source public|MDS|import"
)
"""Commands of the guides below that need a network, a store, or files that a test does not have."""


def shown_commands() -> dict[str, list[str]]:
    """Every command of every page, once, but for those that a guide below runs."""
    found = [
        (page.stem, words)
        for page in PAGES
        for language, code in blocks(page)
        if language == "bash"
        for words in commands(code)
    ]
    return {
        " ".join(words): words
        for page, words in found
        if page not in GUIDES or NOT_HERE.search(" ".join(words))
    }


@pytest.mark.parametrize("words", shown_commands().values(), ids=" ".join)
def test_a_shown_command_parses_and_its_keys_compose(words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for folder in ["runs", *[word for word in words if word.startswith("runs/")]]:
        Path(folder).mkdir(parents=True, exist_ok=True)
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"photon {words[0]}"
        command, words = found, words[1:]
    parsed = command.make_context(command.name, list(words)).params
    keys = parsed.get("overrides") or parsed.get("arguments") or ()
    keys = [key for key in keys if "=" in key or key.startswith("~")]
    if command.name == "evaluate":
        apply_evaluation_overrides(load_config([]), keys)
    elif keys:
        load_config(keys)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what the guides take for granted: some text."""
    monkeypatch.chdir(tmp_path)
    library = Path(sysconfig.get_path("stdlib"))
    for source in ("json", "email"):
        (tmp_path / "texts" / source).mkdir(parents=True)
        for file in (library / source).glob("*.py"):
            shutil.copyfile(file, tmp_path / "texts" / source / f"{file.stem}.txt")
    shutil.copyfile(library / "this.py", tmp_path / "book.txt")
    shutil.copyfile(library / "argparse.py", tmp_path / "play.txt")
    return tmp_path


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs_from_its_top_to_its_end(name, workplace, data_root, monkeypatch):
    real = photon.train
    small = [*SMALL["train"], f"dataset.train.root_local={data_root}"]
    monkeypatch.setattr(photon, "train", lambda keys: real([*keys, *small]), raising=False)
    namespace: dict = {}
    done = 0
    for language, code in blocks(DOCS / "guides" / f"{name}.md"):
        if language == "python":
            exec(code, namespace)
        if language == "yaml":  # its first line is a comment with the file's name
            Path(code.split()[1]).write_text(code)
        for words in commands(code) if language == "bash" else ():
            if not NOT_HERE.search(" ".join(words)):
                assert run(_scaled(words, data_root)) == 0, words
                done += 1
    assert done >= 5


def _scaled(words: list[str], data_root: Path) -> list[str]:
    """A command of a guide, made small; on the test's data unless it names some."""
    keys = list(SMALL.get(words[0], []))
    resumed = "--resume" in words
    if words[0] == "train" and not resumed:
        keys += ["fl.n_rounds=2", "llm_config.local_steps=3"]
        if not any("root_local" in word for word in words):
            keys += ["fl.n_total_clients=2", f"dataset.train.root_local={data_root}"]
        else:
            keys.append("llm_config.model.vocab_size=512")  # the recipe's is smaller
    kept = [word.replace("8192", "512") for word in words if not word.startswith("dataset=")]
    return words if resumed else [*kept, *keys]


def test_shell_scripts_parse_and_dry_runs_run():
    scripts = [code for page in PAGES for language, code in blocks(page) if language == "bash"]
    subprocess.run(["bash", "-n"], input="\n".join(scripts), text=True, check=True)
    dry = [line for code in scripts for line in code.splitlines() if line.endswith("--dry-run")]
    assert len(dry) >= 2
    done = subprocess.run(
        ["bash", "-e"], input="\n".join(dry), text=True, cwd=ROOT, capture_output=True,
        env={**os.environ, "PHOTON_PYTHON": sys.executable},
    )  # fmt: skip
    assert done.stdout.count("photon") >= len(dry), done.stderr


def test_keys_that_are_said_to_be_refused_are_refused():
    page = (DOCS / "guides/coming-from-the-original.md").read_text()
    table = page.split("**Refused**")[1].split("```")[0]
    refused = re.findall(r"^\| `([\w.]+=[\w.]+)`", table, re.M)
    assert len(refused) >= 3
    for key in refused:
        with pytest.raises(photon.PhotonError, match=key.split("=")[0]):
            load_config([key.replace("...", "x")])
