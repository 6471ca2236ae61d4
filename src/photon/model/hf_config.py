"""Configurations: `llm_config.model` as a config.json of `transformers`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.errors import CheckpointError, ConfigError

HINT = "train it as it is with llm_config.model.name=hf_causal_lm"

_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_ROTARY = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "rope_scaling.rope_type": ("default",),
    "rope_scaling.type": ("default",),
    "rope_scaling.partial_rotary_factor": (1.0, None),
    "rope_parameters.rope_type": ("default",),
    "rope_parameters.type": ("default",),
    "rope_parameters.partial_rotary_factor": (1.0, None),
    "partial_rotary_factor": (1.0, None),
}
_ACCEPTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", *_ACTIVATIONS),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "mpt": {
        "expansion_ratio": (4,),
        "no_bias": (True,),
        "logit_scale": (None,),
        "norm_type": ("low_precision_layernorm", "layernorm"),
        "ffn_config.ffn_type": ("mptmlp",),
        "attn_config.attn_type": ("multihead_attention",),
        "attn_config.alibi": (True,),
        "attn_config.alibi_bias_max": (8,),  # transformers computes with 8 whatever stands there
        "attn_config.clip_qkv": (None,),
        "attn_config.softmax_scale": (None,),
        "attn_config.prefix_lm": (False,),
        "attn_config.qk_ln": (False,),
        "attn_config.qk_gn": (False,),
        "attn_config.rope": (False,),
        "attn_config.sliding_window_size": (-1,),
    },
    "llama": _ROTARY,
    "qwen3": {**_ROTARY, "use_sliding_window": (False,)},
}
"""What an entry of config.json may be for our decoder to compute the same; the first is the
default of `transformers` where the entry is missing."""
_OF_ALL: dict[str, tuple[Any, ...]] = {"quantization_config": (None,), "is_causal": (True,)}
_OTHER_NAMES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "mpt": {"hidden_size": "d_model", "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers"},
}  # fmt: skip
"""Second names of entries (`attribute_map` in `transformers`)."""


def model_type_of(model: ModelConfig) -> str:
    """The architecture of `transformers` that computes what the model does."""
    if model.is_mpt:
        return "mpt" if model.attention.alibi else "gpt2"
    return "qwen3" if model.attention.qk_norm else "llama"


def config_of(inner: Inner) -> dict[str, Any]:
    """Entries of config.json for a model of ours.

    Raises:
        ConfigError: `transformers` has no architecture that computes the same.
    """
    kind = model_type_of(inner.model)
    make = {"gpt2": _gpt2_config, "mpt": _mpt_config}.get(kind, _llama_config)
    return {
        **make(inner.model, inner.positions),
        "model_type": kind,
        "vocab_size": inner.model.vocab_size,
        "tie_word_embeddings": inner.model.tied,
        "initializer_range": inner.model.init_std,
        "dtype": "float32",
        "use_cache": True,
    }


def export_note(inner: Inner) -> str | None:
    """What to tell the user of a model that trains here and cannot be exported."""
    if inner.model.name == "hf_causal_lm":
        return None  # it came from there
    try:
        config_of(inner)
    except ConfigError as error:
        return f"this model trains, but {error}"
    return None


def _gpt2_config(model: ModelConfig, positions: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "n_positions": positions,
        "n_embd": model.d_model,
        "n_layer": model.n_layers,
        "n_head": model.n_heads,
        "n_inner": model.ffn_width,
        "activation_function": "gelu" if model.ffn_act == "gelu" else "gelu_new",
        "layer_norm_epsilon": model.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "no_bias": model.no_bias,  # nothing to GPT-2, whose biases are zero then; read on import
    }


def _mpt_config(model: ModelConfig, positions: int) -> dict[str, Any]:
    for key, value, needed in (
        ("no_bias", model.no_bias, True),
        ("ffn_act", model.ffn_act, "gelu"),
        ("expansion_ratio", model.expansion_ratio, 4),
        ("attn_config.alibi_bias_max", model.attention.alibi_bias_max, 8),
    ):
        if value != needed:
            raise ConfigError(
                f"llm_config.model.{key}={value}: cannot be exported with "
                f"attn_config.alibi=true: transformers' MPT always computes with {key}={needed}"
            )
    return {
        "architectures": ["MptForCausalLM"],
        "max_seq_len": positions,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "expansion_ratio": model.expansion_ratio,
        "layer_norm_epsilon": model.norm_eps,
        "no_bias": True,
        "learned_pos_emb": False,
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": model.attention.alibi_bias_max,
            "attn_pdrop": 0,
        },
    }


def _llama_config(model: ModelConfig, positions: int) -> dict[str, Any]:
    """The base of the rotary positions stands twice: as transformers 5 reads it, and as 4 does."""
    theta = model.attention.rope_theta
    name = "Qwen3ForCausalLM" if model.attention.qk_norm else "LlamaForCausalLM"
    return {
        "architectures": [name],
        "max_position_embeddings": positions,
        "hidden_size": model.d_model,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.ffn_width,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
    }


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `llm_config.model` for a config.json of `transformers`.

    Raises:
        CheckpointError: our decoder cannot compute the same; the message names the entry.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _ACCEPTED:
        raise CheckpointError(
            f"config.json: model_type={kind!r} is none of {', '.join(_ACCEPTED)}; {HINT}"
        )
    config = _under_one_name(config, _OTHER_NAMES.get(kind, {}))
    try:
        for key, accepted in {**_OF_ALL, **_ACCEPTED[kind]}.items():
            if (value := _entry(config, key, accepted[0])) not in accepted:
                raise _unlike(key, value)
        read = {"gpt2": _gpt2_fields, "mpt": _mpt_fields}.get(kind, _llama_fields)
        fields = {"vocab_size": config["vocab_size"], **read(config)}
        if ModelConfig.model_validate(fields).max_positions is None:
            raise TypeError("its number of positions is null")
    except KeyError as error:
        raise CheckpointError(f"config.json: has no entry {error}") from error
    except (AttributeError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json: an entry is of the wrong kind ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"config.json: no model of ours: {key} {first['msg']}") from error
    return fields


def _under_one_name(config: Mapping[str, Any], others: Mapping[str, str]) -> dict[str, Any]:
    """The entries by their first names.

    Raises:
        CheckpointError: two names of one entry have different values.
    """
    found = {key: value for key, value in config.items() if key not in others}
    for other in others.keys() & config.keys():
        if found.setdefault(others[other], config[other]) != config[other]:
            raise CheckpointError(
                f"config.json: {others[other]}={found[others[other]]!r} and "
                f"{other}={config[other]!r} are one entry with two values"
            )
    return found


def _entry(config: Mapping[str, Any], dotted: str, default: Any) -> Any:
    section, _, key = dotted.rpartition(".")
    return ((config.get(section) or {}) if section else config).get(key, default)


def _unlike(key: str, value: Any) -> CheckpointError:
    return CheckpointError(f"config.json: {key}={value!r} is not what our decoder does; {HINT}")


def _gpt2_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    width = config["n_embd"]
    inner = config.get("n_inner") or 4 * width
    if inner % width:
        raise _unlike("n_inner", inner)
    return {
        "name": "mpt_causal_lm",
        "d_model": width,
        "n_heads": config["n_head"],
        "n_layers": config["n_layer"],
        "max_seq_len": config["n_positions"],
        "expansion_ratio": inner // width,
        "ffn_act": _ACTIVATIONS[config.get("activation_function", "gelu_new")],
        "no_bias": bool(config.get("no_bias", False)),
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "init_std": config.get("initializer_range", 0.02),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
    }


def _mpt_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "mpt_causal_lm",
        "d_model": config["d_model"],
        "n_heads": config["n_heads"],
        "n_layers": config["n_layers"],
        "max_seq_len": config["max_seq_len"],
        "no_bias": True,
        "norm_eps": config.get("layer_norm_epsilon", 1e-5),
        "init_std": config.get("initializer_range", 0.02),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
        },
    }


def _llama_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    is_qwen = config["model_type"] == "qwen3"
    head_dim = config.get("head_dim", 128 if is_qwen else None) or width // heads
    if head_dim * heads != width:
        raise _unlike("head_dim", head_dim)
    if any(kind != "full_attention" for kind in config.get("layer_types") or ()):
        raise _unlike("layer_types", config["layer_types"])
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if nested := [key for key, value in rope.items() if isinstance(value, Mapping)]:
        raise _unlike(f"rope_parameters.{nested[0]}", rope[nested[0]])
    return {
        "name": "llama",
        "d_model": width,
        "n_heads": heads,
        "n_layers": config["num_hidden_layers"],
        "max_seq_len": config["max_position_embeddings"],
        "ffn_hidden_size": config["intermediate_size"],
        "norm_eps": config.get("rms_norm_eps", 1e-6),
        "init_std": config.get("initializer_range", 0.02),
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "attn_config": {
            "kv_n_heads": config.get("num_key_value_heads", 32 if is_qwen else None) or heads,
            "qk_norm": is_qwen,
            "rope_theta": rope.get("rope_theta", config.get("rope_theta", 10000.0)),
        },
    }
