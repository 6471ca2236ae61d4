"""The inner loop against hand-written torch loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from photon.config.resolve import replace_keys, resolve
from photon.core.tree import digest
from photon.data.shards import Rows
from photon.data.stream import JoinedStream, Stream
from photon.errors import NonFiniteLoss
from photon.model.build import build_model, parameters_of
from photon.training.gradient import accumulate_gradient
from photon.training.loop import Trainer
from photon.training.parallel import ALONE, build_parallel
from photon.training.schedule import cosine_with_warmup

CPU = torch.device("cpu")


def test_schedule_is_its_closed_form():
    def factor(step):
        return cosine_with_warmup(step, t_warmup=10, t_max=110, alpha_f=0.1)

    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == 1.0
    assert factor(10) == 1.0
    assert factor(60) == pytest.approx(0.1 + 0.9 / 2)
    assert factor(35) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert factor(110) == factor(5000) == pytest.approx(0.1)
    assert cosine_with_warmup(0, t_warmup=0, t_max=1, alpha_f=0.5) == 1.0


@pytest.fixture
def config(smoke):
    return resolve(smoke("llm_config.global_train_batch_size=4"), cores=1, accelerator=False,
                   run_uuid="t")  # fmt: skip


@pytest.fixture
def stream(data_root: Path) -> JoinedStream:
    return JoinedStream([Stream(Rows(data_root / "client_0" / "train"), seed=1, client=0)])


def trainer_for(config, stream) -> Trainer:
    trainer = Trainer(config.llm_config, config.seed, CPU)
    trainer.load(replace(trainer.snapshot(), moments={}, streams=stream.start()))
    return trainer


def reference_run(config, stream, steps, make_optimizer) -> dict[str, torch.Tensor]:
    llm = config.llm_config
    model = build_model(llm, config.seed)
    optimizers = make_optimizer(model)
    states = stream.start()
    for step in range(steps):
        rows, states = stream.read(states, llm.global_train_batch_size)
        batch = torch.from_numpy(rows)
        logits = model(batch[:, :-1])
        targets = batch[:, 1:].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1), targets)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = llm.optimizer.lr * cosine_with_warmup(
                    step, t_warmup=1, t_max=6, alpha_f=0.1
                )
            optimizer.step()
    return parameters_of(model)


def adamw(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)]


def sgd(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.SGD(groups, lr=1.0)]


def muon(model):
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and "embedding" not in n]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [
        torch.optim.Muon(hidden, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [model.embedding.weight], betas=(0.9, 0.95), weight_decay=0.1, fused=True
        ),
        torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


@pytest.mark.parametrize("make", [adamw, sgd, muon], ids=lambda make: make.__name__)
def test_the_loop_is_a_plain_torch_loop(config, stream, make):
    name = make.__name__
    changes = {"llm_config.optimizer.name": name, "llm_config.optimizer.betas": [0.9, 0.95],
               "llm_config.optimizer.lr": 0.01, "fl.aggregate_momenta": name != "sgd"}  # fmt: skip
    config = replace_keys(config, changes)
    trainer = trainer_for(config, stream)
    trainer.train(stream, 6)
    expected = reference_run(config, stream, 6, make)
    for parameter, value in parameters_of(trainer.model).items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_segments_and_a_moved_state_give_the_same_bits(config, stream, optimizer):
    config = replace_keys(config, {"llm_config.optimizer.name": optimizer})
    whole = trainer_for(config, stream)
    expected = whole.train(stream, 7).state
    first = trainer_for(config, stream)
    first.train(stream, 3)
    second = Trainer(config.llm_config, 999, CPU)
    second.load(first.snapshot())
    state = second.train(stream, 4).state
    assert digest(second.snapshot().params) == digest(whole.snapshot().params)
    assert (state.loss_sum, state.num_tokens, state.streams) == (
        expected.loss_sum, expected.num_tokens, expected.streams,
    )  # fmt: skip


def test_a_fresh_state_starts_afresh(config, stream):
    """Whatever the trainer did before, a loaded state decides what comes next."""
    used, fresh = trainer_for(config, stream), trainer_for(config, stream)
    start = fresh.snapshot()
    used.train(stream, 5)
    used.load(replace(start, moments={}))
    used.train(stream, 3)
    fresh.load(replace(start, moments={}))
    fresh.train(stream, 3)
    assert digest(used.snapshot().params) == digest(fresh.snapshot().params)


@pytest.mark.parametrize("microbatch", [1, 2, 3])
def test_microbatches_are_one_batch(config, stream, microbatch):
    rows = torch.from_numpy(stream.read(stream.start(), 4)[0])
    parallel = build_parallel(config.llm_config, 0, CPU, ALONE)
    model = parallel.model
    whole = accumulate_gradient(parallel, rows, microbatch=4)
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    parts = accumulate_gradient(parallel, rows, microbatch=microbatch)
    assert float(parts) == pytest.approx(float(whole), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-7)


def test_stopping_ends_between_two_steps(config, stream):
    trainer = trainer_for(config, stream)
    answers = iter([False, False, True])
    state = trainer.train(stream, 10, lambda: next(answers)).state
    assert (state.step, state.steps_done, state.optimizer_step) == (2, 2, 2)
    assert state.num_tokens == 2 * 4 * 32


def test_divergence_is_named_with_its_steps(config, stream):
    trainer = trainer_for(config, stream)
    with torch.no_grad():
        trainer.model.embedding.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match=r"step 1: the training loss is nan.* client 0: "):
        trainer.train(stream, 3)
    assert trainer.state.step == 0
