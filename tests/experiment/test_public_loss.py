"""The loss of public text, beside the loss of the rows that it is of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import photon.experiment.public_loss as public
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.data.read.shards import Rows
from photon.model.build import build_model, parameters_of
from shards import write_shards


@torch.no_grad()
@pytest.mark.parametrize("count", [3, 7])
def test_all_rows_that_are_asked_for_are_scored(tmp_path, count):
    """Also where they do not fill the last pass, which is of two."""
    tokens = np.random.default_rng(0).integers(0, 20, 8 * 11 + 1)
    write_shards(tmp_path / "v", tokens, 8, {"text_bytes": 400, "text_tokens": 100})
    rows = Rows(tmp_path / "v")
    shape = ModelConfig(d_model=8, n_heads=2, n_layers=1, ffn_hidden_size=8, vocab_size=20)
    inner = Inner(model=shape, max_seq_len=8, device_eval_batch_size=2)
    fl = Federation(scoring={"enabled": True, "rows": count})  # pyright: ignore
    scoring = public.scoring_of(fl, inner, rows, torch.device("cpu"))
    assert scoring is not None
    assert scoring.public_loss is not None
    model = build_model(inner, 1)
    found = scoring.public_loss(parameters_of(model), {}, 0.0)
    chosen = torch.from_numpy(rows.read(np.arange(count) * len(rows) // count))
    logits = model(chosen[:, :-1]).flatten(0, 1)
    assert found == pytest.approx(float(F.cross_entropy(logits, chosen[:, 1:].flatten())), rel=1e-5)
