"""Whatever dies, and whenever: the run ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from history import faults, faults_of_run

import photon
from photon.container.container import digest
from photon.core.messages import ServerState
from photon.run import checkpoint

ROUNDS = 12
LENGTH = 32
ROWS_PER_ROUND = 3 * 2
"""Three steps of two rows, as the smoke recipe has them."""


@pytest.fixture(scope="module")
def undisturbed(data_root, tmp_path_factory) -> str:
    """Digest of the final parameters of the same run on the local engine."""
    home = tmp_path_factory.mktemp("undisturbed")
    result = photon.train(["recipe=smoke", f"dataset.train.root_local={data_root}",
                           f"photon.saving_path={home}", f"fl.n_rounds={ROUNDS}",
                           "fl.eval_period=null"])  # fmt: skip
    return final(Path(result.folder))


def final(run: Path) -> str:
    newest = checkpoint.newest_checkpoint(run / "checkpoints")
    return digest(checkpoint.load_parameters(newest))


def assert_sound(federation, undisturbed: str) -> None:
    assert faults_of_run(federation.run, federation.homes(), ROWS_PER_ROUND, LENGTH) == []
    assert final(federation.run) == undisturbed


def test_kills_at_random_moments(federate, undisturbed):
    """Server, nodes and workers, one after the other, at moments that a seed draws."""
    rng = random.Random(0)
    federation = federate(f"fl.n_rounds={ROUNDS}")
    federation.wait_for(1)
    for _ in range(6):
        if federation.processes["server"].poll() is not None:
            break
        time.sleep(rng.uniform(0.0, 0.4))
        name = rng.choice(["server", "a", "b", "worker"])
        if name == "worker":
            for pid in federation.workers(rng.choice("ab")):
                os.kill(pid, signal.SIGKILL)
            continue
        federation.kill(name)
        time.sleep(rng.uniform(0.0, 0.2))
        federation.start(name)
        federation.wait_for(federation.rounds() + rng.choice([0, 1]))
    federation.finish()
    assert_sound(federation, undisturbed)


def test_a_frozen_node_is_waited_for(federate, undisturbed):
    """It stands still for longer than a round may last, then answers what is long over."""
    federation = federate(f"fl.n_rounds={ROUNDS}", "fl.round_timeout=2")
    federation.wait_for(2)
    federation.processes["a"].send_signal(signal.SIGSTOP)
    time.sleep(5)
    federation.processes["a"].send_signal(signal.SIGCONT)
    federation.finish()
    assert_sound(federation, undisturbed)
    assert "client 0: late" in federation.log("server")


def test_a_joiner_that_dies_while_joining_is_forgotten(federate, undisturbed):
    federation = federate(f"fl.n_rounds={ROUNDS}")
    federation.wait_for(1)
    federation.kill("b")
    federation.start("b")
    time.sleep(0.5)
    federation.kill("b")
    federation.start("b")
    federation.finish()
    assert_sound(federation, undisturbed)


def record(number: int, accepted: list[int], tokens: int, step: int) -> dict:
    return {"round": number, "accepted": accepted, "tokens": tokens, "step": step}


def test_the_checker_finds_every_corruption():
    good = [record(1, [0, 1], 20, 3), record(2, [1], 30, 6)]
    state = ServerState(round=2, step=6, params={}, outer={}, num_tokens=30,
                        last_accepted={0: 1, 1: 2})  # fmt: skip
    assert faults(good, state, 2, 5) == []
    corrupted = [
        good[:1],
        [*good, good[1]],
        [good[0], record(3, [1], 30, 6)],
        [good[0], record(2, [1, 1], 40, 6)],
        [good[0], record(2, [1], 40, 6)],
        [good[0], record(2, [1], 30, 2)],
        [good[0], record(2, [0], 30, 6)],
        [],
    ]
    for records in corrupted:
        assert faults(records, state, 2, 5)
