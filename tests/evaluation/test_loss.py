"""Losses by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.data.read.shards import Rows
from photon.evaluation.loss import LossReport, evaluate_loss, held_out_loss, unigram_loss
from photon.model.build import build_model
from shards import write_shards


@pytest.fixture
def rows(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 20, 8 * 11 + 1)
    facts = {
        "text_bytes": 400,
        "text_tokens": 100,
        "unigram": np.bincount(tokens, minlength=20).tolist(),
    }
    write_shards(tmp_path / "v", tokens, 8, facts)
    return Rows(tmp_path / "v")


@pytest.fixture
def model():
    shape = ModelConfig(d_model=8, n_heads=2, n_layers=1, ffn_hidden_size=8, vocab_size=20)
    return build_model(Inner(model=shape, max_seq_len=8), 1)


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_loss_is_the_mean_over_all_tokens(rows, model, batch_size):
    report = evaluate_loss(model, rows, batch_size=batch_size)
    everything = torch.from_numpy(rows.read(np.arange(len(rows))))
    logits = model(everything[:, :-1]).flatten(0, 1)
    targets = everything[:, 1:].flatten()
    assert report.loss == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    assert report.accuracy == pytest.approx(float((logits.argmax(-1) == targets).float().mean()))
    assert report.num_tokens == 88


@torch.no_grad()
@pytest.mark.parametrize(("room", "passes"), [(1 << 30, [4, 4, 3]), (4 * 20 * 8 * 2, [2] * 5 + [1]),
                                              (1 << 10, [1] * 11)])  # fmt: skip
def test_logits_of_a_pass_are_bounded(rows, model, room, passes):
    """Of rows that fit, one at least; the loss is the same."""
    inner = Inner(
        model=model.config, max_seq_len=8, device_eval_batch_size=4, max_logits_bytes=room
    )
    seen: list[int] = []
    model.register_forward_hook(lambda *call: seen.append(call[2].shape[0]))
    report = held_out_loss(model, rows, inner)
    assert seen == passes
    assert report.loss == pytest.approx(evaluate_loss(model, rows, batch_size=100).loss, rel=1e-6)


def test_validation_batches_are_of_the_rows_that_are_asked_for(rows, model):
    """Fewer rows at once are more passes, not fewer rows."""
    inner = Inner(
        model=model.config, max_seq_len=8, device_eval_batch_size=4, eval_subset_num_batches=2
    )
    one_by_one = inner.model_copy(update={"max_logits_bytes": 1 << 10})
    counts = [held_out_loss(model, rows, keys).num_tokens for keys in (inner, one_by_one)]
    assert counts == [8 * 8, 8 * 8]


def test_it_tells_how_far_it_is(rows, model):
    seen: list[float] = []
    evaluate_loss(model, rows, batch_size=3, progress=seen.append)
    assert seen == [1 / 4, 2 / 4, 3 / 4, 1]


@torch.no_grad()
def test_a_subset_is_spread_over_the_rows(rows, model):
    report = evaluate_loss(model, rows, batch_size=3, max_rows=4)
    chosen = torch.from_numpy(rows.read([0, 2, 5, 8]))
    logits = model(chosen[:, :-1]).flatten(0, 1)
    expected = float(F.cross_entropy(logits, chosen[:, 1:].flatten()))
    assert report.loss == pytest.approx(expected, rel=1e-5)


def test_derived_numbers():
    report = LossReport(loss=math.log(16), accuracy=0.5, num_tokens=10, bytes_per_token=4.0)
    assert report.perplexity == pytest.approx(16)
    assert report.bits_per_byte == pytest.approx(1.0)
    assert LossReport(1e4, 0, 1, 1.0).perplexity == math.inf
    assert math.isnan(LossReport(math.nan, 0, 1, 1.0).perplexity)


def test_evaluation_leaves_the_mode_alone(rows, model):
    model.train()
    evaluate_loss(model, rows, batch_size=4)
    assert model.training


def test_unigram_by_hand(rows):
    counts = np.asarray(rows.manifest["unigram"], dtype=float) + 1
    p = counts / counts.sum()
    targets = rows.read(np.arange(len(rows)))[:, 1:]
    assert unigram_loss([rows], rows) == pytest.approx(float(-np.log(p[targets]).mean()))
