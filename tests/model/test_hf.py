"""Our models in the clothes of `transformers`: the same logits there, the same bits back."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from photon.config.llm import Inner
from photon.config.model import AttentionConfig, ModelConfig
from photon.container.container import digest
from photon.errors import CheckpointError, ConfigError
from photon.model.build import build_model, load_parameters, parameters_of
from photon.model.hf import export_model, import_model

TOKENS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


def inner(name: str = "llama", attention: dict | None = None, **model) -> Inner:
    shape = {"d_model": 16, "n_heads": 4, "n_layers": 2, "vocab_size": 50, "ffn_hidden_size": 24}
    attn = AttentionConfig(**attention or {})
    return Inner(model=ModelConfig(name=name, **{**shape, **model}, attn_config=attn),
                     max_seq_len=12)  # fmt: skip


ALIBI = {"name": "mpt_causal_lm", "no_bias": True, "attention": {"alibi": True}}
FAMILIES = {
    "gpt2": (inner("mpt_causal_lm", norm_eps=1e-2), "GPT2LMHeadModel"),
    "gpt2 tanh, untied": (
        inner("mpt_causal_lm", ffn_act="gelu_tanh", expansion_ratio=2, tie_word_embeddings=False),
        "GPT2LMHeadModel",
    ),
    "gpt2 without biases": (inner("mpt_causal_lm", no_bias=True), "GPT2LMHeadModel"),
    "mpt": (inner(**ALIBI, norm_eps=1e-2), "MptForCausalLM"),
    "mpt, 3 heads, untied": (
        inner(**ALIBI, n_heads=3, d_model=18, tie_word_embeddings=False),
        "MptForCausalLM",
    ),
    "llama": (inner(norm_eps=1e-2), "LlamaForCausalLM"),
    "llama grouped": (inner(attention={"kv_n_heads": 2, "rope_theta": 100.0}), "LlamaForCausalLM"),
    "llama untied": (inner(tie_word_embeddings=False), "LlamaForCausalLM"),
    "qwen3": (inner(attention={"qk_norm": True, "kv_n_heads": 2}), "Qwen3ForCausalLM"),
}


@torch.no_grad()
def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Make every weight matter: none zero, one or small."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.mul_(2).add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def ours(config: Inner):
    return stir(build_model(config, 3))


@torch.no_grad()
def theirs(config: dict, tensors: dict):
    """The model that `transformers` makes of an export."""
    config = json.loads(json.dumps(config))
    made = transformers.AutoConfig.for_model(
        config.pop("model_type"), **config, eos_token_id=0, bos_token_id=0
    )
    model = transformers.AutoModelForCausalLM.from_config(made).eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_computes_the_same_and_comes_back_bit_for_bit(family):
    config, name = FAMILIES[family]
    model = ours(config)
    exported, tensors = export_model(config, parameters_of(model))
    other = theirs(exported, tensors)
    assert type(other).__name__ == name
    assert exported["architectures"] == [name]
    with torch.no_grad():
        torch.testing.assert_close(other(TOKENS).logits, model(TOKENS), rtol=0, atol=1e-4)
    fields, params = import_model(exported, tensors)
    assert digest(params) == digest(parameters_of(model))
    again = Inner(model=ModelConfig.model_validate(fields), max_seq_len=12)
    assert export_model(again, params)[0] == exported


SIZES = {"vocab_size": 50, "eos_token_id": 0, "bos_token_id": 0}
ROTARY = {
    **SIZES, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12,
    "head_dim": 4,
}  # fmt: skip
GPT2 = {**SIZES, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 12}
MPT = {**SIZES, "d_model": 18, "n_layers": 2, "n_heads": 3, "max_seq_len": 12}
FOREIGN = {
    "gpt2": ("gpt2", GPT2),
    "gpt2 exact": ("gpt2", {**GPT2, "activation_function": "gelu", "n_inner": 32}),
    "gpt2 untied": ("gpt2", {**GPT2, "tie_word_embeddings": False, "layer_norm_epsilon": 1e-2}),
    "mpt": ("mpt", MPT),
    "llama": ("llama", {**ROTARY, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
    "llama as transformers 4 wrote it": ("llama", {**ROTARY, "rope_theta": 50.0}),
    "llama tied": ("llama", {**ROTARY, "tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
    "qwen3": ("qwen3", ROTARY),
}


def foreign(kind: str, entries: dict):
    made = transformers.AutoConfig.for_model(kind, **entries)
    return stir(transformers.AutoModelForCausalLM.from_config(made))


def logits(fields: dict, params: dict) -> torch.Tensor:
    config = Inner(model=ModelConfig.model_validate(fields), max_seq_len=12)
    model = build_model(config, 0).eval()
    load_parameters(model, params)
    with torch.no_grad():
        return model(TOKENS)


@pytest.mark.parametrize("case", FOREIGN)
def test_a_model_of_transformers_computes_the_same_here(case):
    kind, entries = FOREIGN[case]
    if "rope_parameters" in entries and transformers.__version__.startswith("4."):
        pytest.skip("transformers 4 does not know this form")
    model = foreign(kind, entries)
    fields, params = import_model({"model_type": kind, **entries}, dict(model.named_parameters()))
    with torch.no_grad():
        expected = model(TOKENS).logits
    torch.testing.assert_close(logits(fields, params), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(dtype):
    tensors = {
        name: p.detach().to(dtype) for name, p in foreign("llama", ROTARY).named_parameters()
    }
    _, params = import_model({"model_type": "llama", **ROTARY}, tensors)
    assert all(value.dtype == torch.float32 for value in params.values())
    assert torch.equal(params["norm.weight"].to(dtype), tensors["model.norm.weight"])


def test_gpt2_as_its_authors_published_it():
    """Without the prefix, and with the causal masks among the weights."""
    model = foreign("gpt2", GPT2)
    full = dict(model.named_parameters())
    short = {name.removeprefix("transformer."): value for name, value in full.items()}
    short["h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    config = {"model_type": "gpt2", **GPT2}
    assert digest(import_model(config, short)[1]) == digest(import_model(config, full)[1])


def test_biases_learned_after_an_export_without_them_are_kept():
    config = inner("mpt_causal_lm", no_bias=True)
    exported, tensors = export_model(config, parameters_of(ours(config)))
    biases = [value for name, value in tensors.items() if name.endswith(".bias")]
    assert len(biases) == 2 * 6 + 1
    assert not any(value.any() for value in biases)
    tensors["transformer.h.1.mlp.c_fc.bias"][3] = 0.5
    fields, params = import_model(exported, tensors)
    assert fields["no_bias"] is False
    assert params["blocks.1.ffn.up.bias"][3] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_bias": False}, "no_bias=False: cannot be exported"),
        ({"ffn_act": "gelu_tanh"}, "ffn_act=gelu_tanh: cannot"),
        ({"expansion_ratio": 2}, "expansion_ratio=2: cannot"),
        ({"attention": {"alibi": True, "alibi_bias_max": 16}}, "alibi_bias_max=16: cannot"),
    ],
)
def test_what_mpt_cannot_be_told_is_refused(changes, message):
    config = inner(**{**ALIBI, **changes})
    with pytest.raises(ConfigError, match=message):
        export_model(config, parameters_of(build_model(config, 0)))


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("llama", {"head_dim": 8}, "head_dim"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_inner": 40}, "n_inner"),
        ("mpt", {"attn_config": {"clip_qkv": 8}}, "clip_qkv"),
        ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi"),
        ("mpt", {"no_bias": False}, "no_bias"),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale"),
        ("bloom", {}, "model_type"),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused_with_a_way_out(kind, changes, named):
    entries = {"gpt2": GPT2, "mpt": MPT}.get(kind, ROTARY)
    with pytest.raises(CheckpointError, match=rf"{named}.*llm_config\.model\.name=hf_causal_lm"):
        import_model({"model_type": kind, **entries, **changes}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 0}, "n_layers"),
        ({"hidden_size": 12, "head_dim": 3}, "even multiple"),
    ],
)
def test_sizes_that_are_no_model_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        import_model({"model_type": "llama", **ROTARY, **changes}, {})


def test_a_config_without_its_sizes_is_refused():
    with pytest.raises(CheckpointError, match="no entry 'vocab_size'"):
        import_model({"model_type": "gpt2"}, {})


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: without(t, "model.layers.1.self_attn.k_proj.weight"),
            "k_proj.weight is missing",
        ),
        (lambda t: {**t, "model.norm.weight": torch.ones(17)}, r"shape \[17\].*shape \[16\]"),
        (lambda t: {**t, "model.norm.weight": torch.ones(16).int()}, "torch.int32"),
        (lambda t: {**t, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)}, "q_proj.bias"),
        (lambda t: {**t, "lm_head.weight": torch.ones(50, 16)}, "differs from the embedding"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    config = inner()
    exported, tensors = export_model(config, parameters_of(ours(config)))
    with pytest.raises(CheckpointError, match=message):
        import_model(exported, change(tensors))


def test_a_tied_output_matrix_may_stand_there_twice():
    config = inner()
    exported, tensors = export_model(config, parameters_of(ours(config)))
    doubled = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    assert digest(import_model(exported, doubled)[1]) == digest(import_model(exported, tensors)[1])
