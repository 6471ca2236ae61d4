"""Bytes by `photon plan` against the records of real rounds, and the names that layers go by."""

from __future__ import annotations

from pathlib import Path

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
    ],
    ids=str,
)
def test_a_plan_counts_what_rounds_record(keys, smoke):
    config = smoke("run_uuid=r", "llm_config.local_steps=1", "fl.eval_period=null", *keys)
    plan = make_estimate(config, Setting(link=LINK, server=LINK))
    result = photon.train(config)
    first, second = read_lines(Path(result.folder) / "metrics.jsonl")
    traffic = plan.traffic
    assert [line["bytes_up"] for line in (first, second)] == [2 * traffic.up] * 2
    assert [first["bytes_down"], second["bytes_down"]] == [
        2 * traffic.first_down,
        2 * traffic.down,
    ]
    assert plan.federated.total_bytes == result.bytes_up + result.bytes_down
    assert plan.parameters == result.parameters


def test_what_stays_is_not_counted(smoke):
    """By hand: two bytes an element up, four down; a layer of the client's own comes once."""
    whole, own = by_hand(smoke()), by_hand(smoke(), "embedding")
    traffic = make_estimate(
        smoke("fl.personalized_layers=[embedding.weight]"), Setting(link=LINK, server=LINK)
    ).traffic
    assert (traffic.up, traffic.down) == (2 * (whole - own), 4 * (whole - own))
    assert traffic.first_down == 4 * whole
    folded = make_estimate(
        smoke("fl.fold_updates=true", *KEPT), Setting(link=LINK, server=LINK, sites=1)
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
