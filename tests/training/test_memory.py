"""The estimate of memory against PyTorch's record of its allocations, and counts by hand."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from photon.codecs.pieces import PIECE
from photon.config import load_config
from photon.config.resolve import resolve
from photon.core.aggregate import BLOCK_BYTES
from photon.core.codec import BF16, Codec, Codecs
from photon.core.messages import Broadcast, Instruction
from photon.core.round import close_round, open_round
from photon.core.tree import num_bytes
from photon.data.read.shards import Rows
from photon.evaluation.loss import evaluate_loss
from photon.model import fp8
from photon.model.activations import scoring_bytes
from photon.model.build import build_model, parameters_of
from photon.node import client_host
from photon.node.client_host import ClientHost
from photon.run.checkpoint import load_update
from photon.run.outer import outer_of, outer_trees
from photon.run.preparation import architecture_of
from photon.server.bounds import Honesty
from photon.server.loop import initial_state
from photon.server.rules import rules_of
from photon.training import memory
from photon.training.fragments import Fragments
from photon.training.gradient import accumulate_gradient
from photon.training.layers import layers_of
from photon.training.loop import Trainer
from photon.training.memory import (
    PROGRAM,
    UPDATES_IN_FLIGHT,
    Stage,
    centralized_memory,
    client_memory,
    in_one_process,
    server_memory,
)
from photon.training.outline import outline_of

CPU = torch.device("cpu")
WIDE = ["llm_config.model.d_model=64", "llm_config.local_steps=1", "llm_config.compile=false",
        "llm_config.device_train_microbatch_size=2", "llm_config.optimizer.name=adamw"]  # fmt: skip
LLAMA = ["llm_config.model.d_model=64", "llm_config.model.n_layers=3", "llm_config.max_seq_len=64",
         "llm_config.model.ffn_hidden_size=176", "llm_config.model.vocab_size=512",
         "llm_config.compile=false"]  # fmt: skip


def small(*keys: str):
    return load_config([*LLAMA, "photon.workers=0", *keys])


def resolved(config):
    return resolve(config, cores=1, accelerator=0, run_uuid="r")


def sections(config):
    """What of a configuration the estimates take."""
    return config.inner, config.averaging()


def peak_bytes(action: Callable[[], object]) -> int:
    """Most bytes of tensors that were allocated within and not yet freed."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as recorded:
        kept = action()
    del kept
    results = recorded.profiler.kineto_results.events()  # pyright: ignore
    events = [(e.start_ns(), e.nbytes()) for e in results if e.name() == "[memory]"]  # pyright: ignore
    live = most = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        live += size
        most = max(most, live)
    return most


def stage_of(memory, name: str) -> Stage:
    return next(stage for stage in memory.stages if stage.name == name)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["llm_config.model.n_heads=8", "llm_config.model.attn_config.kv_n_heads=8"],
        ["llm_config.model.attn_config.attn_impl=torch"],
        ["llm_config.precision=amp_bf16"],
        ["llm_config.precision=amp_fp8"],
        ["llm_config.precision=amp_fp8", "llm_config.model.name=mpt_causal_lm"],
        ["llm_config.precision=amp_bf16", "llm_config.model.attn_config.attn_impl=torch"],
        ["llm_config.model.name=mpt_causal_lm"],
        ["llm_config.model.name=mpt_causal_lm", "llm_config.precision=amp_bf16"],
        ["llm_config.model.name=mpt_causal_lm", "llm_config.model.attn_config.alibi=true"],
        [
            "llm_config.model.name=mpt_causal_lm",
            "llm_config.model.attn_config.alibi=true",
            "llm_config.precision=amp_bf16",
        ],
        ["llm_config.fsdp_config.activation_checkpointing=true", "llm_config.model.n_layers=8"],
        ["llm_config.max_logits_bytes=65536"],
        ["fl.frozen_layers=[embedding,blocks.0,blocks.1]"],
    ],
    ids=str,
)
def test_a_pass_takes_what_is_counted(keys, monkeypatch):
    """Within 6 %: the small tensors of an operation are not counted."""
    monkeypatch.setattr(fp8, "lack_of_fp8", lambda device: None)
    config = small(*keys)
    rows = config.inner.batch_rows
    memory = client_memory(*sections(config), rows)
    counted = max(new_bytes(stage_of(memory, name)) for name in ("forward", "backward"))
    trainer = Trainer(config.inner, 0, CPU, frozen=frozen(config))
    tokens = torch.zeros(rows, config.inner.row_length + 1, dtype=torch.int64)
    taken = peak_bytes(lambda: accumulate_gradient(
        trainer.parallel, tokens, microbatch=rows, precision=config.inner.precision
    ))  # fmt: skip
    assert taken == pytest.approx(counted, rel=0.06)


def new_bytes(stage: Stage) -> int:
    """What a step allocates."""
    return stage.total("device") - stage.device["weights"] - stage.device["moments"]


def frozen(config) -> tuple[str, ...]:
    return outline_of(*sections(config)).layers.frozen


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("adamw", []),
        ("adopt", []),
        ("muon", ["llm_config.model.d_model=128", "llm_config.model.n_heads=4"]),
        ("sgd", []),
    ],
)
def test_an_optimizer_takes_what_is_counted(name, keys):
    """Moments, and what a step needs beside them once they are there."""
    config = small(f"llm_config.optimizer.name={name}", *keys)
    trainer = Trainer(config.inner, 0, CPU)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    stage = stage_of(client_memory(*sections(config), 1), "step")
    trainer.optimizer.step(1e-3)
    kept = sum(map(num_bytes, trainer.optimizer.moments().values()))
    assert kept == stage.device["moments"]
    assert peak_bytes(lambda: trainer.optimizer.step(1e-3)) == pytest.approx(
        stage.device.get("step", 0), rel=0.12, abs=20_000
    )


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["fl.compression=bf16"],
        ["fl.compression=fp32"],
        ["fl.aggregate_momenta=false", "llm_config.optimizer.name=muon"],
        ["fl.frozen_layers=[embedding]"],
        ["fl.personalized_layers=[embedding]"],
    ],
    ids=str,
)
def test_an_update_takes_what_is_counted(keys, smoke, monkeypatch):
    config = resolved(smoke(*WIDE, *keys))
    stage = stage_of(client_memory(*sections(config), 2), "update")
    node = ClientHost(config, Path(config.machine.runs_folder), CPU)
    params = parameters_of(build_model(config.inner, 1))
    instruction = Instruction(run="r", round=1, client=0, first_step=0, local_steps=1,
                              base_digest="", last_accepted=0)  # fmt: skip
    taken, make = [], client_host.outgoing
    monkeypatch.setattr(
        client_host, "outgoing",
        lambda *a: taken.append(peak_bytes(lambda: made.append(make(*a)))) or made[-1],
    )  # fmt: skip
    made = []
    node.train(instruction, Broadcast(params=params)).result()
    (out,), counted = made, stage.host["updates"] / UPDATES_IN_FLIGHT
    trees = [out.gradient, out.residual, out.layers, *out.moments.values(), *out.kept.values()]
    assert sum(map(num_bytes, trees)) == pytest.approx(counted, rel=0.05)
    assert taken[0] <= 1.05 * counted + (0 if "fl.compression" in str(keys) else scratch(params))


def test_the_bounds_of_a_round_hold_no_number_for_each_step(smoke):
    config = resolved(smoke(*WIDE, "llm_config.local_steps=50000"))
    params = parameters_of(build_model(config.inner, 1))
    layers = layers_of(config.federation, list(params))
    fragments = Fragments.of(config.federation, layers, params)
    honesty = Honesty(config.federation, config.inner, layers, fragments)
    state = initial_state(params, outer_of(config.federation, 1))
    honesty.bounds(state, 1)
    tracemalloc.start()
    try:
        assert honesty.bounds(state, 50_000).rate > 0
        assert tracemalloc.get_traced_memory()[1] < 50_000 * 8
    finally:
        tracemalloc.stop()


def test_bounds_have_the_norms_of_the_moments_that_clients_start_from(smoke):
    config = resolved(smoke(*WIDE, "fl.aggregate_momenta=true", "fl.compression=fp32"))
    params = parameters_of(build_model(config.inner, 1))
    layers = layers_of(config.federation, list(params))
    fragments = Fragments.of(config.federation, layers, params)
    honesty = Honesty(config.federation, config.inner, layers, fragments)
    state = initial_state(params, outer_of(config.federation, 1))
    moments = outline_of(config.inner, config.federation).moments
    assert {one.before for one in honesty.bounds(state, 1).moments.values()} == {None}
    kept = {m: {n: params[n] * at for n in its} for at, (m, its) in enumerate(moments.items(), 1)}
    bounds = honesty.bounds(replace(state, moments=kept), 1).moments
    assert {m: one.before for m, one in bounds.items()} == pytest.approx(
        {
            m: torch.cat([v.flatten() for v in its.values()]).norm().item()
            for m, its in kept.items()
        },
        rel=1e-5,
    )


def scratch(params) -> int:
    """Most that a codec of blocks works in: of a tensor, no more than one piece at a time."""
    return 18 * min(PIECE, max(value.numel() for value in params.values()))


@pytest.mark.parametrize("keys", [[], ["fl.aggregate_momenta=false"], ["fl.compression=fp32"]])
@pytest.mark.parametrize("strategy", ["fedavg", "nesterov", "fedadam"])
def test_aggregation_takes_what_is_counted(keys, strategy, smoke):
    """Nothing but the moments of the first round, and what a thread works in."""
    config = resolved(smoke(*WIDE, f"fl.strategy_name={strategy}", *keys))
    node = ClientHost(config, Path(config.machine.runs_folder), CPU)
    params = parameters_of(build_model(config.inner, 1))
    state = initial_state(params, outer_of(config.federation, 1))
    rules = replace(rules_of(config.federation, False), quorum=1)
    fragments = Fragments.of(config.federation, node.layers, state.params)
    honesty = Honesty(config.federation, config.inner, node.layers, fragments)
    moments = honesty.bounds(state, 1)
    plan = open_round(state, run="r", steps={0: 1}, rules=rules, base_digest="d", bounds=moments)
    update = load_update(node.train(plan.instructions[0], Broadcast(params=params)).result())
    held = num_bytes(params) + sum(map(num_bytes, state.outer.values()))
    taken = peak_bytes(
        lambda: close_round(
            state, plan, [update], outer=outer_of(config.federation, 1), rules=rules
        )
    )
    stage = stage_of(
        server_memory(*sections(config), outer_trees(config.federation)), "aggregation"
    )
    counted = stage.host["state"] - held
    assert counted <= taken + 1
    assert taken <= counted + BLOCK_BYTES, (taken, counted, held)


@pytest.mark.parametrize("precision", ["fp32", "amp_bf16"])
def test_validation_takes_what_is_counted(precision, data_root):
    config = small(f"llm_config.precision={precision}", "llm_config.max_seq_len=32",
                   "llm_config.model.vocab_size=4096")  # fmt: skip
    model = build_model(config.inner, 0)
    rows = Rows(data_root / "validation")
    taken = peak_bytes(
        lambda: evaluate_loss(model, rows, batch_size=8, max_rows=24, precision=precision)
    )
    assert taken == pytest.approx(scoring_bytes(config.inner, 8), rel=0.15)


def test_layers_that_stay_are_counted_as_they_are():
    """By hand: fp32; AdamW; two bytes of an element travel."""
    sent = "fl.compression=bf16"
    whole = num_bytes(outline_of(*sections(small())).params)
    table = 4 * 512 * 64
    plain, frozen_, own, large, fresh = (
        client_memory(*sections(small("llm_config.optimizer.name=adamw", sent, *keys)), 1)
        for keys in (
            [],
            ["fl.frozen_layers=[embedding]"],
            ["fl.personalized_layers=[embedding]"],
            ["llm_config.model.vocab_size=1024"],
            ["fl.reset_optimizer=true"],
        )
    )
    kept = stage_of(plain, "update").parts("cpu")
    assert kept == {"program": PROGRAM, "updates": 2 * 3 * whole // 2, "weights": whole,
                    "gradients": whole, "moments": 2 * whole}  # fmt: skip
    trained = whole - table
    assert stage_of(frozen_, "update").parts("cpu") == {
        "program": PROGRAM, "updates": 2 * 3 * trained // 2, "weights": whole,
        "gradients": trained, "moments": 2 * trained,
    }  # fmt: skip
    assert stage_of(own, "update").parts("cpu") == {
        "program": PROGRAM, "own layers": table,
        "updates": 2 * (trained // 2 + table + 2 * whole),
        "weights": whole, "gradients": whole, "moments": 2 * whole,
    }  # fmt: skip
    ended = stage_of(fresh, "update").parts("cpu")["updates"]
    assert ended == 2 * whole // 2, "moments end with the round"
    more = stage_of(large, "update").total("cpu") - stage_of(plain, "update").total("cpu")
    assert more == pytest.approx(7 * table)


def test_what_a_codec_keeps_is_counted(monkeypatch):
    """By hand, of codecs that keep as much as they were given: a client keeps what was lost of the
    pseudo-gradients of two updates, and has to decode the moments that it received; a server keeps
    what clients hold, and makes the next moments in new memory.
    """
    of = sections(small("llm_config.optimizer.name=adamw", "fl.compression=bf16"))
    whole = num_bytes(outline_of(*of).params)
    before = stage_of(client_memory(*of, 1), "update"), server_memory(*of, 1).stages[0]
    lossy = Codec(lambda value, _: ({"": value.bfloat16()}, value), BF16.read)
    for codecs in ("codecs_of", "kept_codecs"):
        monkeypatch.setattr(memory, codecs, lambda federation: Codecs(lossy, lossy, lossy))
    after = stage_of(client_memory(*of, 1), "update"), server_memory(*of, 1).stages[0]
    more = [a.total("cpu") - b.total("cpu") for a, b in zip(after, before, strict=True)]
    assert more == [2 * whole + 2 * whole, whole + whole]


def test_moments_that_are_never_averaged_are_not_received():
    adamw = ("fl.compression=int8", "llm_config.optimizer.name=adamw")
    sizes = [
        client_memory(*sections(small(*adamw, *keys)), rows=1).stages[0].host["received moments"]
        for keys in ([], ["fl.first_moment_period=null"], ["fl.second_moment_period=9"])
    ]
    assert sizes[0] == 2 * sizes[1] == sizes[2]


def test_a_resized_vocabulary_is_the_models():
    keys = ["llm_config.model.name=mpt_causal_lm", "fl.resize_vocab=1024"]
    sizes = []
    for config in (small(keys[0]), small(*keys)):
        model = architecture_of(config.inner.model, config.federation.vocabulary)
        sizes.append(client_memory(*sections(config.with_model(model)), 1).peak("cpu"))
    assert sizes[1] - sizes[0] >= 7 * 4 * 512 * 64


def test_one_process_holds_what_both_hold():
    config = small("llm_config.device_eval_batch_size=1")
    client, server = client_memory(*sections(config), 1), server_memory(*sections(config), 1)
    both = in_one_process(client, server)
    state = server.stages[0].host["state"]
    assert stage_of(both, "update").total("cpu") == stage_of(client, "update").total("cpu") + state
    whole = num_bytes(outline_of(*sections(config)).params)
    validation = stage_of(both, "validation").parts("cpu")
    assert validation["weights"] == whole
    assert validation["program"] == PROGRAM, "once"
    alone = centralized_memory(*sections(config), 1)
    assert alone.peak("cpu") < client.peak("cpu")
    assert client.split_over(2).stages[0].device["weights"] == whole // 2


def test_a_gpu_and_its_host_share_the_parts():
    for stage in client_memory(*sections(small()), 1).stages:
        assert stage.total("cpu") == stage.total("device") + stage.total("host") + stage.holes
