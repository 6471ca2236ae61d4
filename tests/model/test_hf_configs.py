"""Whatever a config.json of `transformers` says: our decoder computes the same, or refuses."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
import transformers

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.errors import CheckpointError
from photon.model.build import model_with
from photon.model.causal_lm import read_config
from photon.model.hf import import_model

TOKENS = torch.randint(0, 48, (2, 12), generator=torch.Generator().manual_seed(0))
ROTARY = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12,
    "head_dim": 4,
}  # fmt: skip
PLAIN = {
    "gpt2": {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 12},
    "mpt": {"vocab_size": 50, "d_model": 24, "n_layers": 2, "n_heads": 3, "max_seq_len": 12},
    "llama": ROTARY,
    "qwen3": ROTARY,
}
FLAGS = (
    "is_causal", "tie_word_embeddings", "use_sliding_window", "attention_bias", "mlp_bias",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
    "add_cross_attention", "no_bias", "learned_pos_emb", "use_cache", "is_decoder",
)  # fmt: skip
VALUES = {
    **dict.fromkeys(FLAGS, (True, False)),
    "hidden_act": ("silu", "swish", "gelu", "relu"),
    "activation_function": ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu"),
    "rope_theta": (20.0, 500.0),
    "rope_parameters": (
        {}, {"rope_theta": 77.0}, {"type": "linear", "factor": 2.0}, {"partial_rotary_factor": 0.5},
        {"rope_type": "default", "rope_theta": 5.0}, {"rope_type": "dynamic", "factor": 2.0},
    ),
    "rope_scaling": (
        {}, {"rope_theta": 33.0}, {"type": "linear", "factor": 2.0}, {"type": "default"},
        {"rope_type": "default", "rope_theta": 5.0},
    ),
    "partial_rotary_factor": (0.5, 1.0),
    "layer_types": (["full_attention"] * 2, ["full_attention", "sliding_attention"]),
    "sliding_window": (2, None),
    "max_window_layers": (0, 1),
    "attn_config": (
        {}, {"alibi_bias_max": 16}, {"alibi_bias_max": 4}, {"clip_qkv": 0.05}, {"qk_ln": True},
        {"softmax_scale": 0.9}, {"prefix_lm": True}, {"attn_type": "multiquery_attention"},
        {"alibi": False}, {"attn_impl": "flash"}, {"attn_uses_sequence_id": True},
    ),
    "logit_scale": (None, 0.5, "inv_sqrt_d_model"),
    "norm_type": ("low_precision_layernorm", "layernorm", "rmsnorm"),
    "embedding_fraction": (0.5, 1.0),
    "expansion_ratio": (2, 4),
    "n_inner": (None, 16, 40, 64),
    "hidden_size": (16, 24),
    "num_attention_heads": (1, 2, 4, 8),
    "num_key_value_heads": (None, 1, 2, 4),
    "num_hidden_layers": (1, 2),
    "head_dim": (None, 2, 4, 8),
    "n_heads": (2, 3, 4, 6),
    "n_head": (1, 2, 4),
    "layer_norm_epsilon": (1e-2, 1e-5),
    "rms_norm_eps": (1e-1, 1e-6),
    "initializer_range": (0.02, 0.03),
    "pretraining_tp": (1, 2),
    "chunk_size_feed_forward": (0, 2),
    "attention_dropout": (0.5,),
    "emb_pdrop": (0.5,),
    "dtype": ("float32", "bfloat16"),
}  # fmt: skip


@torch.no_grad()
def theirs(kind: str, entries: dict):
    """The model that `transformers` makes of a config, and its logits; None: it makes none."""
    try:
        made = transformers.AutoConfig.for_model(
            kind, **{**copy.deepcopy(entries), "dtype": "float32"}, eos_token_id=0, bos_token_id=0
        )
        if (getattr(made, "hidden_size", 0) or 0) > 64 or made.num_hidden_layers > 2:
            return None  # its sizes were left out
        model = transformers.AutoModelForCausalLM.from_config(made).eval()
        generator = torch.Generator().manual_seed(3)
        for parameter in model.parameters():
            parameter.mul_(2).add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return model, model(TOKENS).logits
    except Exception:  # whatever it dislikes
        return None


def require_equal_or_refused(kind: str, entries: dict) -> bool:
    """Whether it was equal."""
    found = theirs(kind, entries)
    if found is None:
        return False
    model, expected = found
    try:
        config = {"model_type": kind, **copy.deepcopy(entries)}
        fields, params = import_model(config, dict(model.named_parameters()))
    except CheckpointError:
        return False
    config = Inner(model=ModelConfig.model_validate(fields), max_seq_len=fields["max_seq_len"])
    with torch.no_grad():
        logits = model_with(config, params).eval()(TOKENS)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4, msg=f"{kind} {entries}")
    return True


@pytest.mark.parametrize("kind", PLAIN)
def test_random_configs_are_computed_alike_or_refused(kind):
    rng = random.Random(kind)
    own = set(transformers.AutoConfig.for_model(kind).to_dict()) | {"rope_scaling", "is_causal"}
    own |= {"num_attention_heads", "hidden_size", "rope_theta", "partial_rotary_factor"}
    names = sorted(VALUES.keys() & own)
    equal = 0
    for _ in range(50):
        entries = dict(PLAIN[kind])
        if rng.random() < 0.2:
            del entries[rng.choice(list(entries))]
        for name in rng.sample(names, rng.choice([1, 1, 2, 3])):
            entries[name] = rng.choice(VALUES[name])
        equal += require_equal_or_refused(kind, entries)
    assert equal > 10, "most of what a config can say is read"


@pytest.mark.parametrize(
    ("kind", "entries", "named"),
    [
        ("mpt", {"attn_config": {"alibi_bias_max": 16}}, "attn_config.alibi_bias_max=16"),
        ("gpt2", {"num_attention_heads": 2}, "n_head=4 and num_attention_heads=2"),
        ("mpt", {"num_attention_heads": 4}, "n_heads=3 and num_attention_heads=4"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("llama", {"rope_parameters": {"type": "linear", "factor": 2.0}}, "rope_parameters.type"),
        ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 9.0}}}, "full_attention"),
        ("llama", {"rope_scaling": "linear"}, "of the wrong kind"),
        ("llama", {"hidden_size": "16", "head_dim": None}, "of the wrong kind"),
        ("llama", {"num_attention_heads": 0, "head_dim": None}, "of the wrong kind"),
        ("gpt2", {"model_type": ["gpt2"]}, r"model_type=\['gpt2'\] is none of"),
    ],
)
def test_what_would_be_computed_otherwise_is_named(kind, entries, named):
    with pytest.raises(CheckpointError, match=named):
        import_model({"model_type": kind, **PLAIN[kind], **entries}, {})


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("llama", {"rope_scaling": {"rope_theta": 33.0}}),
        ("llama", {"rope_scaling": {"rope_theta": 33.0}, "rope_parameters": {"rope_theta": 5.0}}),
        ("gpt2", {"num_attention_heads": 4, "hidden_size": 16}),
    ],
)
def test_what_is_said_elsewhere_is_read(kind, entries):
    if transformers.__version__.startswith("4."):
        pytest.skip("transformers 4 reads the base of the positions from one place only")
    assert require_equal_or_refused(kind, {**PLAIN[kind], **entries})


def test_no_way_of_leaving_something_out_in_training_is_kept(tmp_path):
    """Be it heads, numbers or layers, by a whole number or nested; what is no rate stays."""
    rates = {"dropout": 1, "layerdrop": 0.5, "attention_dropout": 0, "text": {"drop_path_rate": 1}}
    entries = {"model_type": "opt", "token_dropout": True, "hidden_size": 16, **rates}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    read = read_config(ModelConfig().but(name="hf_causal_lm", hf_folder=str(tmp_path))).hf_config
    assert [read[key] for key in rates] == [0, 0, 0, {"drop_path_rate": 0}]
    assert read["token_dropout"] is True


def test_a_config_may_use_the_second_names_alone():
    entries = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2,
               "num_attention_heads": 2, "max_position_embeddings": 12}  # fmt: skip
    assert require_equal_or_refused("gpt2", entries)
