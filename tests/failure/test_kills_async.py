"""An asynchronous run whose server and nodes are killed: no update counts twice."""

from __future__ import annotations

import random
import time

from history import faults, faults_of_run
from test_kills import LENGTH, ROWS_PER_ROUND

from photon.core.messages import ServerState
from photon.run.trackers import read_lines

ROUNDS = 8


def test_kills_of_server_and_clients(federate):
    rng = random.Random(0)
    federation = federate(f"fl.n_rounds={ROUNDS}", "fl.mode=async", "fl.buffer=1")
    for name in ("server", "a"):
        federation.wait_for(federation.rounds() + 1)
        time.sleep(rng.uniform(0.0, 0.3))
        if federation.processes["server"].poll() is not None:
            break
        federation.kill(name)
        federation.start(name)
    federation.finish()
    assert faults_of_run(federation.run, federation.homes(), ROWS_PER_ROUND, LENGTH) == []
    records = read_lines(federation.run / "metrics.jsonl")
    assert records[-1]["tokens"] >= ROUNDS * 2 * ROWS_PER_ROUND * LENGTH
    assert records[-1]["step"] >= records[-1]["steps"] > records[-2]["step"]


def test_the_checker_knows_what_a_late_update_was_made_in():
    def record(number, accepted, tokens, **late):
        return {"round": number, "accepted": accepted, "tokens": tokens, "step": number,
                "late": late}  # fmt: skip

    def state(tokens, **accepted):
        last = {int(client[1:]): number for client, number in accepted.items()}
        return ServerState(round=3, step=3, params={}, outer={}, num_tokens=tokens,
                           last_accepted=last)  # fmt: skip

    good = [record(1, [0], 10), record(2, [0], 20), record(3, [0, 1], 40, **{"1": 2})]
    assert faults(good, state(40, c0=3, c1=1), 2, 5) == []
    assert faults(good, state(40, c0=3, c1=3), 2, 5), "it was made in round 1"
    twice = [*good[:2], record(3, [0], 30, **{"0": 1})]
    assert faults(twice, state(30, c0=2), 2, 5) == ["round 3 counts round 2 of client 0 again"]
