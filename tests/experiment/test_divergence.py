"""A diverged run stops with the step, the rows and the checkpoint to go back to; or skips."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import photon
from photon.errors import NonFiniteLoss
from photon.model.decoder import Decoder
from photon.run.trackers import read_lines


@pytest.fixture
def poisoned(monkeypatch):
    """From the eighth forward pass of training on, one loss is NaN."""
    forward, calls = Decoder.forward, iter(range(10**6))

    def call(self, tokens, targets=None, cache=None):
        loss = forward(self, tokens, targets, cache)
        if targets is None or next(calls) != 8:
            return loss
        return loss._replace(
            objective=loss.objective * math.nan, cross_entropy=torch.tensor(math.nan)
        )

    monkeypatch.setattr(Decoder, "forward", call)


@pytest.mark.parametrize("centralized", [False, True])
def test_the_message_names_step_rows_and_last_checkpoint(smoke, poisoned, centralized):
    config = smoke("run_uuid=bad", "llm_config.max_duration=12", "fl.n_rounds=4")
    with pytest.raises(NonFiniteLoss) as caught:
        photon.train(config, centralized=centralized)
    message = str(caught.value)
    checkpoint = Path(message.split("last good checkpoint: ")[1])
    assert checkpoint.exists()
    assert checkpoint.stem == ("step_000008" if centralized else "round_000001")
    assert ("step 9: " if centralized else "step 6: ") in message
    assert "client 0: " in message


def test_a_federated_run_can_skip_the_step(smoke, poisoned):
    result = photon.train(smoke("llm_config.nonfinite_loss=skip", "fl.n_rounds=4"))
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    skipped = [sum(c["skipped_steps"] for c in line["client_metrics"].values()) for line in lines]
    assert skipped == [0, 1, 0, 0]
    assert result.federated is not None
    assert result.federated.tokens == (4 * 2 * 3 - 1) * 2 * 32
    assert math.isfinite(result.federated.val_loss)
