"""`photon config` and completion: where values come from, what keys mean, what may be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import photon
from photon.cli.main import COMMANDS, run
from photon.config import load_config
from photon.config.compose import GROUPS
from photon.config.explain.origin import origins
from photon.config.explain.reference import choices_of, words

CASES = [
    [],
    ["recipe=smoke", "fl.n_rounds=9"],
    ["llm_config=mpt-125m", "dataset=fed-c4", "wandb.setup.group='a # b: c'"],
    ["~llm_config.algorithms.gradient_clipping"],
]


@pytest.mark.parametrize("overrides", CASES, ids=["default", "recipe", "preset", "deleted"])
def test_what_is_shown_is_what_is_composed(capsys, overrides):
    assert run(["config", *overrides]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown == load_config(overrides).model_dump(mode="json")


def test_each_value_says_who_set_it(capsys):
    overrides = [
        "recipe=smoke",
        "llm_config=mpt-125m",
        "fl.n_rounds=9",
        "llm_config.optimizer.lr=1",
    ]
    found = origins(overrides)
    assert found["fl.n_rounds"] == found["llm_config.optimizer.lr"] == "command line"
    assert found["fl.n_total_clients"] == "recipe=smoke"
    assert found["llm_config.optimizer.name"] == "llm_config=mpt-125m"
    assert "fl.quorum" not in found
    assert run(["config", *overrides]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  n_rounds: 9  # command line" in lines
    assert "  n_total_clients: 2  # recipe=smoke" in lines
    assert "  quorum: null" in lines


def test_a_key_is_explained(capsys):
    assert run(["config", "fl.n_total_clients", "recipe=smoke"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fl.n_total_clients  (int; default 8)\n")
    assert "here 2, from recipe=smoke" in out
    assert run(["config", "llm_config.optimizer"]) == 0
    assert capsys.readouterr().out.count("llm_config.optimizer.") >= 4
    assert run(["config", "photon.checkpoint"]) == 0
    assert "every committed round" in capsys.readouterr().out
    assert run(["config", "fl.quorm"]) == 2
    assert "did you mean 'fl.quorum'?" in capsys.readouterr().err


@pytest.mark.parametrize("group", GROUPS)
def test_the_presets_of_a_group_are_listed(group, capsys):
    """Each is a file, of which the first sentence is told."""
    folder = Path(photon.__file__).parent / "config" / "groups" / group
    assert run(["config", group]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{group}=PRESET, or FILE.yaml")
    for path in folder.glob("*.yaml"):
        (line,) = [line for line in out.splitlines() if line.split()[0] == path.stem]
        says = line.split(maxsplit=1)[1]
        assert says.endswith(".")
        assert says[:40] in path.read_text().replace("\n# ", " ")
    assert "llm_config.max_seq_len  (" in out or group != "llm_config"


def test_what_may_be_written():
    assert {"fl.n_rounds=", "recipe=", "llm_config="} <= set(words())
    assert choices_of("recipe") == ["quickstart", "smoke"]
    assert choices_of("fl.split_eval") == ["true", "false"]
    assert {"adamw", "muon"} <= set(choices_of("llm_config.optimizer.name"))
    assert "null" in choices_of("fl.quorum")
    assert {"fedavg", "nesterov", "fedyogi"} <= set(choices_of("fl.strategy_name"))
    assert choices_of("fl.n_rounds") == choices_of("no.such.key") == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(capsys, name):
    """One grammar: `photon COMMAND [options] ...`, and a line to copy."""
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: photon {name} ")
    assert out.count(f"photon {name}") > 1


def completed(tmp_path: Path, line: str) -> list[str]:
    """What bash offers for the last word of a line."""
    script = (
        f'eval "$({sys.executable} -m photon completion bash)"\n'
        f'read -ra COMP_WORDS <<<"{line}"\n'
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
        f'_photon_words "{tmp_path}/photon"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    command = tmp_path / "photon"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m photon "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_keys_and_values(tmp_path):
    assert completed(tmp_path, "photon tra") == ["train"]
    assert completed(tmp_path, "photon train fl.n_rou") == ["fl.n_rounds="]
    assert completed(tmp_path, "photon train recipe=s") == ["recipe=smoke"]
    nearly = completed(tmp_path, "photon train fl.strategy_name=fedav")
    assert nearly == ["fl.strategy_name=fedavg", "fl.strategy_name=fedavgm"]
