"""The benchmark of waiting runs real federations over shaped links, and counts right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def record(number: int, tokens: int, accepted: list[int], late: dict[str, int] | None = None):
    return {"round": number, "tokens": tokens, "accepted": accepted, "late": late or {},
            "bytes_up": 10 * number, "bytes_down": 20 * number}  # fmt: skip


def log(*parts: tuple[int, list[float]], process: int = 7) -> list[dict]:
    return [line for number, ends in parts
            for line in [{"round": number, "process": process},
                         *({"step": 1, "at": at} for at in ends)]]  # fmt: skip


def test_what_nodes_did_is_set_against_what_was_merged(bench):
    """Of the second node's round 2 one step was killed and done again, and its update came late.

    Rounds close at 10, 20, 30. Steps take 2 s. Each node is in an open round at the end.
    """
    shaped = bench("shaped_figures")
    first = log((1, [4, 6]), (2, [14, 16]), (3, [24, 26]), (4, [29, 31]))
    second = log((1, [5, 7]), (2, [15]), (2, [19, 23]), (3, [28]))
    taken = [shaped.stretches(lines) for lines in (first, second)]
    records = [record(1, 400, [0, 1]), record(2, 600, [0]), record(3, 1000, [0, 1], {"1": 1})]
    found = shaped.figures(records, [10.0, 20.0, 30.0], taken, [2.0, 2.0], 100, 1)
    assert found.of_nodes == [2 * 5 / 20, 2 * 4 / 20]
    assert found.utilization == pytest.approx(18 / 40)
    assert found.goodput == 1000 / (100 * (6 + 5))
    assert (found.rounds, found.seconds, found.round_seconds) == (2, 20.0, 10.0)
    assert (found.bytes_up, found.bytes_down, found.kills) == (50, 100, 1)


def test_work_that_nobody_took_is_lost(bench):
    shaped = bench("shaped_figures")
    taken = shaped.stretches(log((1, [1, 2]), (2, [3, 4]), (3, [5, 6])))
    assert shaped.closed_steps(taken, {1, 3}, 9.0) == 6
    assert shaped.closed_steps(taken, {1}, 9.0) == 4
    assert shaped.closed_steps(taken, {1, 3}, 5.5) == 5
    assert shaped.closed_steps(taken, {1}, 4.5) == 2


def test_what_a_node_is_still_at_is_not_lost_yet(bench):
    """Of its open round two stretches are its own, one was killed with the process before."""
    shaped = bench("shaped_figures")
    killed = shaped.stretches(log((1, [1, 2]), (2, [3, 4, 5])))
    taken = killed + shaped.stretches(log((2, [6, 7]), (2, [8]), process=8))
    assert shaped.closed_steps(taken, {1}, 9.0) == 5
    assert shaped.closed_steps(taken, {1, 2}, 9.0) == 8


def test_real_processes_over_real_links(bench, capsys):
    """Two of 0.2 s of delay: each way of a round takes that long, whatever else."""
    bench("shaped").main(["--quick", "--delay", "0.2", "--jitter", "0.01", "--loss", "0.01"])
    found = json.loads(capsys.readouterr().out)
    assert found["goodput"] == 1.0
    assert found["tokens"] == 3 * 2 * 16 * 64
    assert found["round_seconds"] > 2 * 0.2 + 16 * 0.01
    busy = 16 * 2 * 0.01 / found["seconds"]
    assert found["utilization"] == pytest.approx(busy, rel=0.07), "but for steps at the edges"
    assert found["bytes_up"] > 100_000


def test_a_schedule_of_kills_is_that_of_its_seed(bench):
    """Ten a hundred seconds in the mean; who is dead is back after five, and not killed before."""
    shaped = bench("shaped")

    class Nodes:
        case = shaped.Case([shaped.Site(0.1)] * 3, rounds=1)

        def __init__(self) -> None:
            self.did, self.now = [], 0

        def kill(self, number: int) -> None:
            self.did.append((self.now, "kill", number))

        def start_node(self, number: int) -> None:
            self.did.append((self.now, "start", number))

    def schedule(seed: int, most: int | None = None):
        nodes = Nodes()
        killer = shaped.Killer(nodes, shaped.Churn(10.0, 5.0, most), seed)
        for nodes.now in range(1000):
            killer.tend(float(nodes.now))
        assert killer.kills == sum(what == "kill" for _, what, _ in nodes.did)
        return nodes.did

    did = schedule(3)
    assert did == schedule(3) != schedule(4)
    kills = [(at, node) for at, what, node in did if what == "kill"]
    assert 60 < len(kills) < 110
    assert {(at + 5, node) for at, node in kills if at < 990} <= {
        (at, node) for at, what, node in did if what == "start"
    }
    assert schedule(3, most=2) == did[:4]


def test_a_run_goes_on_when_a_node_is_killed(bench, tmp_path):
    shaped = bench("shaped")
    churn = shaped.Churn(every=0.1, back_after=0.1, most=1)
    case = shaped.Case([shaped.Site(0.02)] * 2, rounds=3, churn=churn, seed=3, limit=100.0)
    found = shaped.measure(case, tmp_path, shaped.prepared(tmp_path / "data", case))
    assert found.kills == 1
    assert found.tokens == 3 * 2 * 16 * 64, "every update counts once"
    assert found.goodput <= 1.0


def test_links_take_half_of_a_synchronous_round(bench):
    """3 MB both ways, 3 clients, 2 rounds: half a megabyte each; 16 steps of 0.25 s and another
    second leave three.
    """
    waiting, shaped = bench("waiting"), bench("shaped_figures")
    found = shaped.Figures(2, 10.0, 5.0, 0.8, 1.0, 10, 1_000_000, 2_000_000, [0.5] * 3, 0, None)
    assert waiting.half_rate(found, 0.25) == 500_000 / 3
    with pytest.raises(ValueError, match=r"a round takes 5.0 s"):
        waiting.half_rate(found, 0.15)


def test_arms_of_the_benchmark_of_waiting(bench):
    """Each is there once, and its case is what its setting says."""
    waiting = bench("waiting")
    assert len({(arm.setting, arm.name) for arm in waiting.ARMS}) == len(waiting.ARMS)
    assert [arm.name for arm in waiting.chosen(["links", "int4"])] == ["overlap, int4"]
    arm = waiting.chosen(["uneven", "synchronous"])[0]
    case = waiting.uneven_case(arm, 5, 1, 0.1, 20.0)
    paces = [site.step_seconds for site in case.sites]
    assert paces == [0.1, 0.1, 0.1, 0.4]
    assert (case.churn.every, case.config().federation.rounds) == (20.0, 5)
    case = waiting.links_case(waiting.chosen(["overlap, int4"])[0], 5, 1, 0.1, 1000.0)
    assert {site.link.rate for site in case.sites} == {1000.0}
    assert case.config().federation.compression.upload == "int4"
