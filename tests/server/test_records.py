"""Numbers of a round's record, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import photon
from photon.core.messages import RoundReport
from photon.node.measure import Measured
from photon.run.trackers import read_lines
from photon.server.records import mean_metrics


def report_of(metrics: dict[int, dict[str, float]]) -> RoundReport:
    zeros = {"num_tokens": 0, "num_steps": 0}
    return RoundReport(
        round=1, accepted=tuple(metrics), refused={}, train_loss=0.0, gradient_norm=0.0,
        client_norms={}, client_cosines={}, client_metrics=metrics, **zeros,
    )  # fmt: skip


def test_a_metric_is_averaged_over_the_clients_that_have_it():
    found = mean_metrics(report_of({0: {"a": 1.0, "b": 4.0}, 3: {"a": 2.0}, 4: {}}))
    assert found == {"a": 1.5, "b": 4.0}


def test_a_perplexity_is_exp_of_the_mean_loss():
    found = mean_metrics(report_of({0: {"val_loss": 2.0}, 1: {"val_loss": 4.0}}))
    assert found["val_perplexity"] == pytest.approx(math.exp(3.0))


def test_numbers_of_segments_add_up_to_those_of_the_round():
    first = {"seconds": 2.0, "tokens_per_second": 10.0, "gradient_norm": 1.0, "learning_rate": 0.1,
             "flops_utilization": 0.2}  # fmt: skip
    second = {"seconds": 6.0, "tokens_per_second": 30.0, "gradient_norm": 4.0,
              "learning_rate": 0.3, "flops_utilization": 0.6}  # fmt: skip
    joined = Measured().and_then(1, first).and_then(2, second)
    assert joined.steps == 3
    assert joined.numbers == pytest.approx(
        {"seconds": 8.0, "tokens_per_second": 200 / 8, "gradient_norm": 3.0, "learning_rate": 0.3,
         "flops_utilization": 0.5}
    )  # fmt: skip


def test_a_clients_speed_is_that_of_the_whole_round(smoke):
    """Three segments of a step each: the tokens of all of them in the seconds of all of them."""
    config = smoke("llm_config.save_interval=1", "fl.n_rounds=1")
    record = read_lines(Path(photon.train(config).folder) / "metrics.jsonl")[0]
    tokens = record["tokens"] / 2
    for metrics in record["client_metrics"].values():
        assert metrics["tokens_per_second"] * metrics["seconds"] == pytest.approx(tokens)
