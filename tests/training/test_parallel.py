"""Two processes over gloo equal one process: DDP and FSDP2, each inner optimizer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import variants

from photon.config import load_config
from photon.config.resolve import resolve
from photon.errors import ConfigError
from photon.run.checkpoint import load_train_state
from photon.training.parallel import World

SCRIPT = Path(__file__).with_name("two_processes.py")


def start_job(script: list[str], processes: int, cwd: Path | None = None) -> list[subprocess.Popen]:
    """What torchrun does on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": "1",
    }
    return [
        subprocess.Popen(
            [sys.executable, *script],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def finish(job: list[subprocess.Popen]) -> None:
    """Wait for all processes; kill them if one fails."""
    try:
        for process in job:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in job:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def states(data_root, tmp_path_factory) -> Path:
    """The states of all variants, of one process and of two."""
    out = tmp_path_factory.mktemp("parallel")
    config = resolve(
        load_config(
            [
                "recipe=smoke",
                f"dataset.train.root_local={data_root}",
                "fl.aggregate_momenta=false",
                "llm_config.global_train_batch_size=4",
                "llm_config.optimizer.lr=0.01",
                "llm_config.max_duration=6",
            ]
        ),
        cores=1,
        accelerator=False,
        run_uuid="t",
        centralized=True,
    )
    (out / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    script = [str(SCRIPT), str(out / "config.json"), str(out)]
    finish([*start_job(script, 1), *start_job(script, 2)])
    return out


def assert_same_tensors(state, expected, **tolerance) -> None:
    trees = {"params": state.params, **state.moments}
    others = {"params": expected.params, **expected.moments}
    assert list(trees) == list(others)
    for kind, tree in trees.items():
        for key, value in tree.items():
            torch.testing.assert_close(value, others[kind][key], **tolerance)


@pytest.mark.parametrize("name", list(variants()))
def test_two_processes_are_one(states, name):
    one, one_facts = load_train_state(states / f"{name}-1.json")
    two, two_facts = load_train_state(states / f"{name}-2.json")
    assert two_facts["losses"] == pytest.approx(one_facts["losses"], rel=1e-5)
    assert two_facts["val_loss"] == pytest.approx(one_facts["val_loss"], rel=1e-5)
    assert two_facts["tokens"] == one_facts["tokens"]
    assert_same_tensors(two, one, rtol=1e-4, atol=1e-5)
    assert (two.step, two.num_tokens, two.streams) == (one.step, one.num_tokens, one.streams)


def test_a_batch_that_does_not_divide_is_refused():
    assert World(1, 2).part(torch.arange(6)).tolist() == [3, 4, 5]
    with pytest.raises(ConfigError, match="global_train_batch_size=5 must be a multiple of the 2"):
        World(1, 2).part(torch.arange(5))
