"""The benchmarks of a round run real ones, and count their time right."""

from __future__ import annotations

import importlib
import sys
import time
from functools import reduce
from pathlib import Path

import pytest
import torch

from photon.core.tree import norm
from photon.run.checkpoint import load_parameters, newest_checkpoint
from photon.run.trackers import read_lines

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def stepped(params, clients, rounds, *, lr, momentum):
    """What a stand-in's rounds come to, with torch's own optimizer for the outer step."""
    weights = {name: torch.nn.Parameter(value.clone()) for name, value in params.items()}
    outer = torch.optim.SGD(weights.values(), lr=lr, momentum=momentum, nesterov=True)
    for _ in range(rounds):
        for value in weights.values():
            moved = [value.detach() * (1 - 1e-3 * (1 + c / 100)) for c in range(clients)]
            sent = [(value.detach() - one).bfloat16().double() for one in moved]
            value.grad = (sum(sent) / clients).float()
        outer.step()
    return {name: value.detach() for name, value in weights.items()}


@pytest.mark.parametrize(
    ("moments", "workers", "way"),
    [("reset", 0, "overlapped"), ("averaged", 0, "sequential"), ("kept", 2, "overlapped")],
)
def test_rounds_are_real(bench, four, tmp_path, moments, workers, way):
    rounds = bench("round")
    case = rounds.Case(60_000, 0.05, clients=4, rounds=1, workers=workers, threads="1",
                       moments=moments, way=way)  # fmt: skip
    figures = rounds.measure(case, tmp_path, four)
    run = rounds.configuration(case, four)
    first = rounds.parameters_of(rounds.build_model(run.inner, run.seed))
    numbers = run.federation.outer_arguments
    expected = stepped(first, 4, 2, lr=numbers["server_learning_rate"],
                       momentum=numbers["server_momentum"])  # fmt: skip
    found = load_parameters(newest_checkpoint(tmp_path / "run/checkpoints"))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)
    assert figures.parameters == sum(value.numel() for value in first.values())
    assert abs(figures.parameters - 60_000) < 300
    sent = 3 if moments == "averaged" else 1
    assert figures.payload_megabytes * 1e6 == sent * 2 * figures.parameters
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    assert [line["accepted"] for line in lines] == [[0, 1, 2, 3]] * 2
    assert figures.device_busy * figures.seconds * case.devices >= 4 * 0.05
    idle = (1 - figures.device_busy) * figures.seconds * case.devices
    assert sum(figures.parts.values()) >= 0.999 * idle
    assert len(figures.peak) == (2 if workers else 1)


def test_every_function_that_time_counts_for_is_there(bench):
    for name in bench("idle_time").PARTS:
        module, _, path = name.partition(":")
        assert reduce(getattr, path.split("."), importlib.import_module(module)), name


def test_time_is_told_by_the_innermost_function_known(bench, monkeypatch):
    idle_time = bench("idle_time")
    seen = []

    class Leaf(torch.Tensor):
        def view(self, *_):
            seen.append(idle_time.described(sys._getframe()))
            return torch.zeros(1)

    monkeypatch.setitem(idle_time.PARTS, "photon.core.tree:norm", "aggregate")
    norm({"w": torch.zeros(1).as_subclass(Leaf)})
    assert seen[0] == ("aggregate", "core/tree.py:read")
    monkeypatch.delitem(idle_time.PARTS, "photon.core.tree:norm")
    norm({"w": torch.zeros(1).as_subclass(Leaf)})
    assert seen[-1] == ("wait", "core/tree.py:read")


def test_idle_seconds_are_those_of_all_devices(bench):
    """Two trainers from 10 to 20 s: busy for 4 and 7 s; the server closes for 2 s. Of the first
    one's 6 idle seconds 3 were seen, a third of them loading.
    """
    idle_time = bench("idle_time")
    Sample, Profile = idle_time.Sample, idle_time.Profile  # noqa: N806
    load = [Sample(at, 0.5, "load", "f", 0.0) for at in (9.9, 14.5, 15.0)]
    seen = [*load, Sample(18.0, 2.0, "wait", "g", 0.0), Sample(13.0, 4.0, "", "", 0.0)]
    first = Profile(busy=[(8.0, 14.0), (20.0, 22.0)], samples=seen, before=0.0)
    second = Profile(busy=[(12.0, 19.0)], samples=[Sample(11.0, 1.0, "wait", "g", 7.0)], before=2.0)
    close = [Sample(at, 1.0, "aggregate", "h", 0.0) for at in (19.0, 20.0)]
    server = Profile(samples=[*close, Sample(15.0, 8.0, "wait", "i", 0.0)], before=0.0)
    parts = idle_time.parts_of([first, second], server, 10.0, 20.0)
    assert {name: value for name, value in parts.items() if value} == {
        "load": 2.0, "aggregate": 2 * 2.0, "wait": 6.0 + 3.0 - 2.0 - 4.0,
    }  # fmt: skip
    assert second.peak(10.0, 20.0) == 5.0
    functions = idle_time.functions_of([first, second, server], 10.0, 20.0)
    assert functions == {
        ("wait", "i"): 8.0, ("wait", "g"): 4.0 + 3.0, ("aggregate", "h"): 2.0, ("load", "f"): 2.0,
    }  # fmt: skip


def test_a_profile_survives_its_file(bench, tmp_path):
    idle_time = bench("idle_time")
    with idle_time.Watch() as watch:
        watch.end_training(watch.begin_training())
        while not watch.profile.samples:
            time.sleep(0.001)
    watch.profile.save(tmp_path / "p.json")
    assert idle_time.Profile.load(tmp_path / "p.json") == watch.profile


def test_a_close_is_the_mean_and_the_step_in_any_order(bench):
    close = bench("close")
    opened = close.Round(60_000, 3)
    before = {name: value.clone() for name, value in opened.state.params.items()}
    momentum = {n: value.clone() for n, value in opened.state.outer["momentum"].items()}
    opened.plain()
    assert opened.num_bytes == sum(v.numel() for v in before.values()) * (3 * 2 + 4 * 4)
    after = opened.close(opened.updates)
    for name, value in before.items():
        sent = [u.gradient[name].double() * u.num_tokens for u in opened.updates]
        mean = sum(sent) / sum(u.num_tokens for u in opened.updates)
        velocity = 0.9 * momentum[name].double() + mean
        expected = value.double() - 0.7 * (mean + 0.9 * velocity)
        torch.testing.assert_close(after.params[name].double(), expected, rtol=1e-6, atol=1e-8)
        assert after.params[name] is opened.state.params[name]
    assert len(set(close.digests(opened).values())) == 1


@pytest.mark.parametrize(("text", "number"), [("125M", 125_000_000), ("1.5k", 1500), ("7", 7)])
def test_counts_are_read(bench, text, number):
    assert bench("round").count(text) == number
