"""Numbers of a round's record, by hand."""

from __future__ import annotations

import math

import pytest

from photon.core.messages import RoundReport
from photon.runtime.records import mean_metrics


def report_of(metrics: dict[int, dict[str, float]]) -> RoundReport:
    zeros = {"num_tokens": 0, "num_steps": 0, "bytes_up": 0, "bytes_down": 0}
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
