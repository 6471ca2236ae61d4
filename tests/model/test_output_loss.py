"""The loss of the output layer against torch's cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from photon.model.loss import linear_cross_entropy, logits_loss


def problem(scale: float = 1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 16, generator=generator) * scale
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(0, 50, (40,), generator=generator)
    return hidden, weight, targets


def reference(hidden, weight, targets, z_loss):
    logits = F.linear(hidden, weight)
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return loss + z_loss * torch.logsumexp(logits, -1).square().sum(), loss


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_it_is_torchs_cross_entropy(chunk, z_loss, scale):
    hidden, weight, targets = problem(scale)
    ours = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    theirs = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    mine = linear_cross_entropy(*ours, targets, z_loss=z_loss, chunk=chunk)
    objective, loss = reference(*theirs, targets, z_loss)
    (mine.objective / 7).backward()
    (objective / 7).backward()
    torch.testing.assert_close(mine.objective, objective)
    torch.testing.assert_close(mine.cross_entropy, loss)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-4)


def test_logits_of_somebody_elses_model():
    hidden, weight, targets = problem()
    objective, loss = reference(hidden, weight, targets, 0.01)
    theirs = logits_loss(F.linear(hidden, weight), targets, 0.01)
    torch.testing.assert_close(theirs.objective, objective)
    torch.testing.assert_close(theirs.cross_entropy, loss)


def test_under_autocast_products_are_bf16_and_sums_fp32():
    hidden, weight, targets = problem()
    ours = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = linear_cross_entropy(*ours, targets, chunk=8)
    mine.objective.backward()
    theirs = hidden.bfloat16().float().requires_grad_(), weight.bfloat16().float().requires_grad_()
    objective, _ = reference(*theirs, targets, 0.0)
    objective.backward()
    assert mine.objective.dtype == torch.float32
    torch.testing.assert_close(mine.objective, objective, rtol=2e-3, atol=0)
    for left, right in zip(ours, theirs, strict=True):
        assert left.grad is not None
        assert left.grad.dtype == torch.float32
        assert float((left.grad - right.grad).norm() / right.grad.norm()) < 0.01


def test_no_gradient_is_made_where_none_is_wanted():
    hidden, weight, targets = problem()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets, chunk=8)
    torch.testing.assert_close(loss.cross_entropy, reference(hidden, weight, targets, 0.0)[1])
