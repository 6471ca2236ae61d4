"""The inner loop against hand-written torch loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.nn.functional as F

from photon.config.compose import with_values
from photon.config.llm import LrSchedule
from photon.config.resolve import resolve
from photon.container.container import digest
from photon.core.loss_scale import LossScale
from photon.core.messages import StreamState
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream, Stream
from photon.errors import DeviceError, NonFiniteLoss
from photon.model.build import build_model, parameters_of
from photon.training.gradient import accumulate_gradient
from photon.training.loop import Trainer
from photon.training.muon import Muon
from photon.training.parallel import ALONE, World, build_parallel
from photon.training.schedule import lr_factor

CPU = torch.device("cpu")


@pytest.fixture
def config(smoke):
    return resolve(smoke("llm_config.global_train_batch_size=4"), cores=1, accelerator=False,
                   run_uuid="t")  # fmt: skip


@pytest.fixture
def stream(data_root: Path) -> JoinedStream:
    return JoinedStream([Stream(Rows(data_root / "client_0" / "train"), seed=1, client=0)])


def trainer_for(config, stream) -> Trainer:
    trainer = Trainer(config.inner, config.seed, CPU)
    trainer.load(replace(trainer.snapshot(), moments={}, streams=stream.start()))
    return trainer


def reference_run(config, stream, steps, make_optimizer) -> dict[str, torch.Tensor]:
    inner = config.inner
    model = build_model(inner, config.seed)
    optimizers = make_optimizer(model)
    states = stream.start()
    schedule = LrSchedule(t_warmup=1, t_max=6, alpha_f=0.1)
    for step in range(steps):
        rows, states = stream.read(states, inner.batch_rows)
        batch = torch.from_numpy(rows)
        inputs, targets = batch[:, :-1], batch[:, 1:]
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = inner.optimizer.lr * lr_factor(schedule, step)
            optimizer.step()
    return parameters_of(model)


def adamw(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-6)]


def sgd(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [torch.optim.SGD(groups, lr=1.0)]


def muon(model):
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and "embedding" not in n]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [
        Muon(hidden, lr=1.0, weight_decay=0.1, momentum=0.9),
        torch.optim.AdamW(
            [model.embedding.weight], betas=(0.9, 0.95), eps=1e-6, weight_decay=0.1, fused=True
        ),
        torch.optim.AdamW(vectors, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.0, fused=True),
    ]


@pytest.mark.parametrize("make", [adamw, sgd, muon], ids=lambda make: make.__name__)
def test_the_loop_is_a_plain_torch_loop(config, stream, make):
    name = make.__name__
    changes = {"llm_config.optimizer.name": name, "llm_config.optimizer.betas": [0.9, 0.95],
               "llm_config.optimizer.eps": 1e-6,
               "llm_config.optimizer.lr": 0.01, "fl.aggregate_momenta": name != "sgd"}  # fmt: skip
    config = with_values(config, changes)
    trainer = trainer_for(config, stream)
    trainer.train(stream, 6)
    expected = reference_run(config, stream, 6, make)
    for parameter, value in parameters_of(trainer.model).items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_segments_and_a_moved_state_give_the_same_bits(config, stream, optimizer):
    config = with_values(config, {"llm_config.optimizer.name": optimizer})
    whole = trainer_for(config, stream)
    expected = whole.train(stream, 7).state
    first = trainer_for(config, stream)
    first.train(stream, 3)
    second = Trainer(config.inner, 999, CPU)
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
    parallel = build_parallel(config.inner, 0, CPU, ALONE)
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


def spoil(trainer, at: int, value: float = math.nan) -> None:
    """Make one gradient element of the step number `at` not finite."""
    original, calls = trainer.parallel.call, iter(range(1000))

    def call(*batch):
        loss = original(*batch)
        if next(calls) != at:
            return loss
        bad = trainer.model.norm.weight.sum() * value
        return loss._replace(objective=loss.objective + bad)

    trainer.parallel = replace(trainer.parallel, call=call)


def test_divergence_is_named_with_its_step_and_rows(config, stream):
    trainer = trainer_for(config, stream)
    spoil(trainer, at=2)
    trainer.train(stream, 1)
    rows, _ = stream.streams[0].indices(StreamState(epoch=0, cursor=8), 4)
    with pytest.raises(NonFiniteLoss, match="step 3: ") as caught:
        trainer.train(stream, 4)
    assert f"client 0: {', '.join(map(str, rows))};" in str(caught.value)
    assert "nonfinite_loss=skip" in str(caught.value)
    assert trainer.state.step == 1, "the state is that of the last segment"


@pytest.mark.parametrize(("policy", "taken"), [("stop", True), ("skip", False)])
def test_processes_decide_alike_whether_a_step_is_taken(config, stream, policy, taken):
    """By the loss of all of them: another's is infinite, so that every gradient is."""
    trainer = trainer_for(with_values(config, {"llm_config.nonfinite_loss": policy}), stream)
    trainer.world = cast(World, SimpleNamespace(sum=lambda value: value.add_(math.inf)))
    own = torch.tensor(2.0)
    assert trainer._is_good(own, torch.tensor(math.nan)) is taken
    assert float(own) == 2.0, "what is reported is still to be summed"


def test_a_nan_loss_stops_too(config, stream):
    trainer = trainer_for(config, stream)
    with torch.no_grad():
        trainer.model.embedding.weight.fill_(math.nan)
    with pytest.raises(NonFiniteLoss, match=r"step 1: the training loss is nan"):
        trainer.train(stream, 3)


def test_skipping_leaves_out_just_that_step(config, stream):
    """As if the optimizer had not been called: the reference leaves it out by hand."""
    config = with_values(
        config, {"llm_config.nonfinite_loss": "skip", "llm_config.optimizer.name": "adamw"}
    )
    trainer = trainer_for(config, stream)
    spoil(trainer, at=2)
    segment = trainer.train(stream, 5)
    state = segment.state
    assert (state.step, state.skipped_steps, state.optimizer_step) == (5, 1, 4)
    assert segment.taken == [True, True, False, True, True]
    assert state.num_tokens == segment.num_tokens == 4 * 4 * 32
    taken = [loss for loss, kept in zip(segment.losses, segment.taken, strict=True) if kept]
    assert state.train_loss == pytest.approx(sum(taken) / 4)
    reference = trainer_for(config, stream)
    step = reference.optimizer.step
    calls = iter(range(5))
    reference.optimizer.step = lambda lr: step(lr) if next(calls) != 2 else None
    reference.train(stream, 5)
    assert digest(trainer.snapshot().params) == digest(reference.snapshot().params)


def test_fp16_scales_the_loss_and_counts_overflows(config, stream):
    """The gradient is that of fp32 up to rounding; a huge scale overflows and is halved."""
    changes = {"llm_config.precision": "amp_fp16", "llm_config.optimizer.name": "sgd",
               "fl.aggregate_momenta": False, "llm_config.optimizer.lr": 0.1}  # fmt: skip
    half = trainer_for(with_values(config, changes), stream)
    full = trainer_for(with_values(config, {**changes, "llm_config.precision": "fp32"}), stream)
    ours, theirs = half.train(stream, 3), full.train(stream, 3)
    assert ours.state.loss_scale.good_steps == 3
    assert ours.losses == pytest.approx(theirs.losses, rel=5e-3)
    assert ours.gradient_norms == pytest.approx(theirs.gradient_norms, rel=2e-2)
    half.state = replace(ours.state, loss_scale=LossScale(factor=2.0**40))
    before = half.snapshot().params
    segment = half.train(stream, 2)
    assert segment.taken == [False, False]
    assert segment.state.skipped_steps == 2
    assert segment.state.loss_scale.factor == 2.0**38
    assert digest(half.snapshot().params) == digest(before)


def test_the_loss_scale_grows_after_2000_good_steps():
    scale = LossScale(factor=8.0)
    for _ in range(1999):
        scale = scale.after(True)
    assert (scale.factor, scale.good_steps) == (8.0, 1999)
    assert scale.after(True) == LossScale(factor=16.0)
    assert scale.after(False) == LossScale(factor=4.0)


def test_steps_that_no_loss_scale_would_save_do_not_bring_it_to_nothing():
    """A loss that is NaN for a while would leave gradients that fp16 reads as zero, or none."""
    scale = LossScale()
    for _ in range(1100):
        scale = scale.after(False)
    assert scale == LossScale(factor=1.0)


@pytest.mark.parametrize("precision", ["amp_bf16", "amp_fp16"])
def test_precision_changes_the_products_and_not_the_weights(config, stream, precision):
    trainer = trainer_for(with_values(config, {"llm_config.precision": precision}), stream)
    exact = trainer_for(config, stream)
    losses, reference = trainer.train(stream, 3).losses, exact.train(stream, 3).losses
    assert losses != pytest.approx(reference, rel=1e-7)
    assert losses == pytest.approx(reference, rel=1e-2)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_the_segment_says_what_each_step_did(config, stream):
    trainer = trainer_for(config, stream)
    segment = trainer.train(stream, 4)
    schedule = config.inner.schedules.schedulers.lr
    lr = config.inner.optimizer.lr
    assert segment.learning_rates == [lr * lr_factor(schedule, step) for step in range(4)]
    rows, _ = stream.read(stream.start(), 4)
    model = build_model(config.inner, config.seed)
    batch = torch.from_numpy(rows)
    loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert segment.losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert segment.gradient_norms[0] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize(
    ("microbatch", "advice"),
    [(2, "lower llm_config.device_train_microbatch_size"), (1, "activation_checkpointing=true")],
)
def test_out_of_memory_is_one_line(config, stream, microbatch, advice):
    changes = {"llm_config.device_train_microbatch_size": microbatch}
    trainer = trainer_for(with_values(config, changes), stream)

    def exhausted(*batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    trainer.parallel = replace(trainer.parallel, call=exhausted)
    with pytest.raises(DeviceError, match=f"out of memory with {microbatch} rows of 32.*{advice}"):
        trainer.train(stream, 1)
