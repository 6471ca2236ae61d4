"""The microbatch that fits, and what is recorded of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import photon
from photon.config import load_config
from photon.config.resolve import Run, resolve
from photon.errors import ConfigError, DeviceError
from photon.experiment.doctor import examine
from photon.model.flops import model_cost
from photon.node import microbatch
from photon.node.microbatch import Trainers, fits, rows_that_fit
from photon.run.outer import outer_trees
from photon.training.memory import client_memory, server_memory

CPU = torch.device("cpu")


def resolved(*overrides: str) -> Run:
    config = load_config(["photon.workers=0", *overrides])
    return resolve(config, cores=1, accelerator=False, run_uuid="r")


def trainers(run: Run, devices: int = 1) -> Trainers:
    return replace(Trainers.of(run, "run"), devices=devices)


def needed(run: Run, rows: int) -> int:
    return trainers(run).memory(CPU, rows)


@pytest.mark.parametrize("fitting", [1, 3, 8, 32])
def test_halving_stops_at_the_first_estimate_that_fits(fitting):
    need = {rows: 100 + 10 * rows for rows in range(33)}
    rows = rows_that_fit("m", need.__getitem__, 32, int(need[fitting] / microbatch.HEADROOM) + 1)
    assert rows == max(r for r in (1, 2, 4, 8, 16, 32) if r <= fitting)


def test_one_row_is_tried_even_if_the_estimate_says_no():
    config = resolved("llm_config=mpt-125m", "llm_config.device_eval_batch_size=1")
    fixed = needed(config, 0)
    assert needed(config, 1) > fixed
    least = int(fixed / microbatch.HEADROOM) + 1
    need = lambda rows: needed(config, rows)  # noqa: E731
    assert rows_that_fit("mpt-125m", need, 32, least) == 1
    with pytest.raises(
        DeviceError, match=r"mpt-125m: training takes \d\.\d GB .* 80% may be filled"
    ):
        rows_that_fit("mpt-125m", need, 32, least - 2)


def test_checkpointing_and_a_small_loss_budget_need_less():
    plain = resolved("llm_config=mpt-1b", "llm_config.fsdp_config.activation_checkpointing=false")
    lean = resolved("llm_config=mpt-1b", "llm_config.max_logits_bytes=200000000")
    big, small = (client_memory(c.inner, c.federation, 4).stages[0].device for c in (plain, lean))
    assert small["activations"] < big["activations"] / 2
    assert small["logits"] < big["logits"] / 2
    assert (small["weights"], small["moments"]) == (big["weights"], big["moments"])


def test_one_rule_wherever_memory_is_compared():
    assert fits(80, 100)
    assert not fits(81, 100)


def test_a_given_microbatch_stays():
    config = resolved("llm_config.device_train_microbatch_size=3")
    assert trainers(config).microbatch(CPU) == 3


def test_processes_share_the_batch():
    config = resolved("llm_config.global_train_batch_size=6")
    assert trainers(config, 2).microbatch(CPU) == 3
    with pytest.raises(ConfigError, match="=6 must be a multiple of the 4 processes"):
        trainers(config, 4).microbatch(CPU)


def test_workers_share_the_memory_with_the_server(monkeypatch):
    alone, both = resolved(), resolved("photon.workers=2")
    free = int(needed(alone, 4) / microbatch.HEADROOM) + 1
    monkeypatch.setattr(microbatch, "free_memory", lambda device: free)
    assert trainers(alone).microbatch(CPU) == 4
    with pytest.raises(DeviceError, match="fewer photon"):
        trainers(both).microbatch(CPU)
    slices = both.inner, both.federation
    server = server_memory(*slices, outer_trees(both.federation)).peak("cpu")
    assert needed(both, 4) == 2 * client_memory(*slices, 4).peak("cpu") + server
    node = Trainers.of(both, "node").memory(CPU, 4)
    assert node == needed(both, 4) - server


def test_the_doctor_counts_the_moments_that_a_node_receives():
    """What is left open is what the server's run makes of it: AdamW's are averaged."""

    def said(*keys: str) -> str:
        config = load_config(["llm_config=mpt-125m", "photon.workers=0", *keys])
        found = {one.what: one.text for one in examine(config, None, ("127.0.0.1", 1), None)}
        return found["memory"].partition(" to train")[0]

    kept, averaged = (said(f"fl.aggregate_momenta={value}") for value in ("false", "true"))
    assert said() == averaged != kept


def test_the_run_records_it_and_a_resumed_run_keeps_it(smoke, monkeypatch):
    result = photon.train(smoke("fl.n_rounds=1", "llm_config.global_train_batch_size=4"))
    path = Path(result.folder) / "config.json"
    key = "device_train_microbatch_size"
    assert json.loads(path.read_text())["llm_config"][key] == 4
    monkeypatch.setattr(microbatch, "free_memory", lambda device: 1)
    photon.resume(Path(result.folder), ["fl.n_rounds=2"])
    assert json.loads(path.read_text())["llm_config"][key] == 4


def test_costs_by_hand():
    inner = resolved("llm_config.model.name=mpt_causal_lm").inner
    d, layers, vocab, length = 96, 3, 2048, 128
    cost = model_cost(inner)
    assert cost.embeddings == vocab * d + length * d
    assert cost.hidden_matrices == layers * 12 * d * d
    biases_and_norms = layers * ((3 + 1 + 4 + 1) * d + 4 * d) + 2 * d
    assert cost.parameters == cost.embeddings + cost.hidden_matrices + biases_and_norms
    expected = 6 * (cost.hidden_matrices + vocab * d) + 12 * layers * d * length
    assert cost.flops_per_token == expected
