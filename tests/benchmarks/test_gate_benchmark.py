"""The benchmark that a federation learns breaks the server's mean as it says."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from photon.core.messages import ServerState, Update
from photon.core.outer import nesterov
from photon.core.policy import Rules
from photon.core.round import close_round, open_round

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SENT = [torch.tensor([1.0, 2.0]), torch.tensor([3.0, -6.0])]


def moved() -> list[float]:
    """How far a round of two clients moves parameters, with an outer step of 1."""
    params, rules = {"w": torch.zeros(2)}, Rules(quorum=2)
    outer = nesterov(lr=1.0, server_momentum=0.0)
    state = ServerState(round=0, step=0, params=params, outer=outer.init(params))
    plan = open_round(state, run="r", steps={0: 1, 1: 1}, rules=rules, base_digest="d")
    updates = [
        Update(run="r", round=1, client=client, gradient={"w": value}, moments={}, num_tokens=8,
               num_steps=1, base_digest="d", metrics={"train_loss": 2.0})
        for client, value in enumerate(SENT)
    ]  # fmt: skip
    return close_round(state, plan, updates, outer=outer, rules=rules)[0].params["w"].tolist()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (None, [-2.0, 2.0]),
        ("updates dropped", [0.0, 0.0]),
        ("wrong sign", [2.0, -2.0]),
        ("first client only", [-1.0, -2.0]),
    ],
)
def test_that_the_mean_is_broken_as_it_is_called(monkeypatch, how, expected):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gate = importlib.import_module("gate")
    if how is None:
        assert moved() == expected
        return
    with gate.broken(how):
        assert moved() == expected
    assert moved() == [-2.0, 2.0]
