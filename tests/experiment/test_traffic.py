"""Bytes by `photon plan` against the records of real rounds, and the names that layers go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import photon
from photon.config import load_config
from photon.core.walltime import LinkSpeed
from photon.errors import ConfigError
from photon.experiment.plan import Setting, make_estimate
from photon.model.build import empty_model, parameters_of
from photon.run.trackers import read_lines
from photon.training.layers import layers_of

LINK = LinkSpeed(up=1e6, down=1e6)
MPT = ["llm_config.model.name=mpt_causal_lm"]
KEPT = ["fl.aggregate_momenta=false"]


def by_hand(config, beginning: str = "") -> int:
    """Elements of the parameters whose names begin so."""
    params = parameters_of(empty_model(config.inner))
    return sum(p.numel() for name, p in params.items() if name.startswith(beginning))


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["fl.compression=fp32", "llm_config.optimizer.name=adopt"],
        ["llm_config.optimizer.name=muon"],
        ["llm_config.optimizer.name=sgd"],
        ["fl.reset_optimizer=true", "llm_config.optimizer.name=decoupled_adamw"],
        ["fl.frozen_layers=[blocks.0.*]", "llm_config.optimizer.name=muon"],
        ["fl.unfrozen_layers=[norm.weight]", "fl.aggregate_momenta=true"],
        ["fl.personalized_layers=[transformer.wte]"],
        ["fl.personalized_layers=[transformer.blocks.0.attn]", "fl.frozen_layers=[norm]"],
        ["fl.random_layers=[embedding.weight]", "fl.random_init_freq=3", *KEPT],
        ["fl.resize_vocab=345", *MPT],
        ["fl.compression.download=bf16"],
        ["fl.compression.download=bf16", *KEPT, "fl.frozen_layers=[blocks.0.*]"],
        ["fl.compression.upload=fp32", "fl.compression.moments=fp32"],
    ],
    ids=str,
)
def test_a_plan_counts_what_rounds_record(keys, smoke):
    config = smoke("run_uuid=r", "llm_config.local_steps=1", "fl.eval_period=null", *keys)
    plan = make_estimate(config, Setting(link=LINK, server=LINK))
    result = photon.train(config)
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    traffic = plan.traffic
    assert tensors(lines, "up") == [2 * traffic.up] * 2
    assert tensors(lines, "down") == [0, 2 * traffic.down], "the first come of the seed"
    assert plan.federated.total_bytes == sum(tensors(lines, "up") + tensors(lines, "down"))
    assert plan.parameters == result.parameters
    twin = plan.data_parallel.total_bytes
    assert twin == result.bytes_ddp == sum(line["bytes_ddp"] for line in lines)


def test_a_plan_counts_fragments_on_average(smoke):
    config = smoke("run_uuid=r", "llm_config.local_steps=1", "fl.eval_period=null", "fl.n_rounds=7",
                   "fl.fragments=3", *KEPT)  # fmt: skip
    traffic = make_estimate(config, Setting(link=LINK, server=LINK)).traffic
    lines = read_lines(Path(photon.train(config).folder) / "metrics.jsonl")
    assert round(sum(tensors(lines, "up")[:3]) / 6) == traffic.up
    assert round(sum(tensors(lines, "down")[1:4]) / 6) == traffic.down
    assert max(tensors(lines, "up")) == 2 * traffic.most_up


def tensors(lines: list[dict[str, Any]], way: str) -> list[int]:
    """Bytes of the tensors of each round; the rest are headers, a few in a payload."""
    found = []
    for line in lines:
        kinds = line["bytes_by_kind"][way]
        assert sum(kinds.values()) == line[f"bytes_{way}"]
        assert 0 < kinds["rest"] < 2 * 20_000 or not sum(kinds.values())
        found.append(line[f"bytes_{way}"] - kinds["rest"])
    return found


@pytest.mark.parametrize("download", ["fp32", "bf16"])
def test_a_plan_counts_moments_by_their_periods(download, smoke):
    """On average over six rounds; whole parameters come with all moments that there are."""
    config = smoke(
        "run_uuid=r", "llm_config.local_steps=1", "fl.eval_period=null", "fl.n_rounds=13",
        f"fl.compression.download={download}", "fl.first_moment_period=2",
        "fl.second_moment_period=3", "llm_config.optimizer.name=adamw",
    )  # fmt: skip
    traffic = make_estimate(config, Setting(link=LINK, server=LINK)).traffic
    lines = read_lines(Path(photon.train(config).folder) / "metrics.jsonl")
    up, down = tensors(lines, "up"), tensors(lines, "down")
    assert round(sum(up[:6]) / 12) == round(sum(up[6:12]) / 12) == traffic.up
    assert down[0] == 0
    assert round(sum(down[7:]) / 12) == traffic.down
    moments = [line["bytes_by_kind"]["up"]["moments"] > 0 for line in lines[:6]]
    assert moments == [False, True, True, True, False, True]
    assert max(up) == 2 * traffic.most_up


def test_the_mean_over_periods_of_any_length_is_counted(smoke):
    """By hand; a search of all rounds until both are due again would not end."""
    periods = ["fl.first_moment_period=1000003", "fl.second_moment_period=1000"]
    keys = ["fl.compression=fp32", "llm_config.optimizer.name=adamw"]
    traffic = make_estimate(smoke(*keys, *periods), Setting(link=LINK, server=LINK)).traffic
    params = 4 * by_hand(smoke())
    assert traffic.up == round(params + params / 1000 + params / 1000003)
    assert traffic.most_up == 3 * params


def test_parameters_that_are_not_the_seeds_come_once_in_the_first_round(smoke, tmp_path):
    photon.train(smoke("run_uuid=first", "fl.n_rounds=1"))
    config = smoke("run_uuid=r", f"pretrained_model_path={tmp_path / 'runs' / 'first'}")
    plan = make_estimate(config, Setting(link=LINK, server=LINK))
    lines = read_lines(Path(photon.train(config).folder) / "metrics.jsonl")
    assert tensors(lines, "down")[0] == 2 * plan.traffic.first_down == 2 * 4 * plan.parameters
    assert plan.federated.total_bytes == sum(tensors(lines, "up") + tensors(lines, "down"))


def test_the_data_parallel_twin_sends_no_gradient_of_what_is_frozen(smoke):
    config = smoke("run_uuid=frozen", "fl.n_rounds=1", "fl.frozen_layers=[blocks.0.*]", *KEPT)
    trained = by_hand(config) - by_hand(config, "blocks.0.")
    result = photon.train(config)
    assert result.federated is not None
    assert result.bytes_ddp == 2 * 2 * trained * result.federated.steps, "two clients, bf16"


def test_what_stays_is_not_counted(smoke):
    """By hand: two bytes an element up, four down; a layer of the client's own comes once."""
    whole, own = by_hand(smoke()), by_hand(smoke(), "embedding")
    config = smoke("fl.personalized_layers=[embedding.weight]", "fl.compression=bf16")
    traffic = make_estimate(config, Setting(link=LINK, server=LINK)).traffic
    assert (traffic.up, traffic.down) == (2 * (whole - own), 4 * (whole - own))
    assert traffic.first_down == 4 * whole
    folded = make_estimate(
        smoke("fl.fold_updates=true", "fl.compression.upload=bf16", *KEPT),
        Setting(link=LINK, server=LINK, sites=1),
    )
    assert folded.traffic.up == 4 * whole


@pytest.mark.parametrize(
    ("pattern", "ours"),
    [
        ("transformer.wte", {"embedding.weight"}),
        ("transformer.wte.weight", {"embedding.weight"}),
        ("model.transformer.wte.weight", {"embedding.weight"}),
        ("transformer.wpe", {"positions.weight"}),
        ("transformer.norm_f.bias", {"norm.bias"}),
        ("transformer.blocks.1.attn.Wqkv.weight", {"blocks.1.attention.qkv.weight"}),
        ("transformer.blocks.1.attn",
         {f"blocks.1.attention.{m}.{k}" for m in ("qkv", "out") for k in ("weight", "bias")}),
        ("*.ffn.down_proj.weight", {f"blocks.{n}.ffn.down.weight" for n in (0, 1, 10)}),
        ("transformer.blocks.1.norm_1",
         {f"blocks.1.attention_norm.{k}" for k in ("weight", "bias")}),
        ("blocks.1.ffn",
         {f"blocks.1.ffn.{m}.{k}" for m in ("up", "down") for k in ("weight", "bias")}),
        ("norm", {"norm.weight", "norm.bias"}),
    ],
)  # fmt: skip
def test_layers_go_by_the_originals_names_too(pattern, ours):
    config = load_config([*MPT, "llm_config.model.n_layers=11"])
    params = parameters_of(empty_model(config.inner))
    names = [n for n in params if ".blocks." not in n and not n.startswith("blocks.")]
    names += [n for n in params if n.startswith(("blocks.0.", "blocks.1.", "blocks.10."))]
    for key in ("frozen_layers", "personal_layers"):
        fl = config.federation.but(**{key: [pattern]})
        found = layers_of(fl, names)
        assert set(found.frozen + found.personal) == ours
    with pytest.raises(ConfigError, match=r"'transformer.wt' matches no parameter"):
        layers_of(config.federation.but(frozen_layers=["transformer.wt"]), names)
