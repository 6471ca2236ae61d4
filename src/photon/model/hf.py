"""Our models as those of `transformers`, and back: a config.json and named tensors.

| ours                            | theirs            |
|---------------------------------|-------------------|
| MPT with learned positions      | GPT2LMHeadModel   |
| MPT with linear biases (ALiBi)  | MptForCausalLM    |
| Llama                           | LlamaForCausalLM  |
| Llama with QK-norm              | Qwen3ForCausalLM  |

Nothing here needs `transformers` itself. Each architecture is one table of names, read in both
directions, so that a model that was exported and imported is the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.core.tree import Tree
from photon.errors import CheckpointError
from photon.model.build import empty_model, parameters_of
from photon.model.hf_config import config_of, fields_of, model_type_of

BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Endings of tensors that older checkpoints hold though they are computed."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What an architecture calls the parameters of our modules.

    Attributes:
        base: name of the module below the language-model head; some checkpoints leave it out.
        outer: our modules outside the blocks, and theirs.
        blocks: their list of blocks.
        inner: our modules of a block, and theirs; several hold ours in parts, one after the other.
        transposed: matrices of a block are [in, out].
    """

    base: str
    outer: Mapping[str, str]
    blocks: str
    inner: Mapping[str, str | tuple[str, ...]]
    transposed: bool = False


_GPT2 = Naming(
    base="transformer.",
    outer={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    blocks="transformer.h",
    inner={
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
    },
    transposed=True,
)
_MPT = Naming(
    base="transformer.",
    outer={"embedding": "transformer.wte", "norm": "transformer.norm_f", "head": "lm_head"},
    blocks="transformer.blocks",
    inner={
        "attention_norm": "norm_1",
        "attention.qkv": "attn.Wqkv",
        "attention.out": "attn.out_proj",
        "ffn_norm": "norm_2",
        "ffn.up": "ffn.up_proj",
        "ffn.down": "ffn.down_proj",
    },
)
_LLAMA = Naming(
    base="model.",
    outer={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
    blocks="model.layers",
    inner={
        "attention_norm": "input_layernorm",
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.q_norm": "self_attn.q_norm",
        "attention.k_norm": "self_attn.k_norm",
        "attention.out": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down": "mlp.down_proj",
    },
)
_NAMINGS = {"gpt2": _GPT2, "mpt": _MPT, "llama": _LLAMA, "qwen3": _LLAMA}


_ORIGINAL = {**_MPT.outer, "positions": "transformer.wpe"}


def original_name(name: str) -> str:
    """What the original Photon calls one of our parameters; one that it does not have keeps ours.

    Its only model is MPT: what a Llama has in the same place goes by the same name.
    """
    module, _, kind = name.rpartition(".")
    if module in _ORIGINAL:
        return f"{_ORIGINAL[module]}.{kind}"
    if not module.startswith("blocks."):
        return name
    _, number, module = module.split(".", 2)
    return f"{_MPT.blocks}.{number}.{_MPT.inner.get(module, module)}.{kind}"


def export_model(inner: Inner, params: Tree) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model of ours as `transformers` stores it.

    Args:
        llm: of `mpt_causal_lm` or `llama`; the models of `transformers` save themselves.
        params: fp32, on the CPU.

    Returns:
        The entries of config.json, and the tensors, contiguous.

    Raises:
        ConfigError: `transformers` has no architecture that computes the same.
    """
    naming, model = _NAMINGS[model_type_of(inner.model)], inner.model
    config = config_of(inner)
    if naming is _GPT2 and not model.has_bias:
        params = _with_zero_biases(inner, params)
    theirs: dict[str, Tensor] = {}
    for name, value in params.items():
        theirs.update(_to_theirs(naming, model, name, value))
    return config, {name: value.contiguous() for name, value in theirs.items()}


def import_model(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model of `transformers` as one of ours.

    Args:
        config: entries of its config.json.
        tensors: of its checkpoint, in any floating-point format.

    Returns:
        Keys of `llm_config.model`, and fp32 parameters in the order of the model's own.

    Raises:
        CheckpointError: our decoder cannot compute the same, or a tensor is missing, left over or
            of another shape.
    """
    fields = fields_of(config)
    naming = _NAMINGS[config["model_type"]]
    tensors = {_full_name(naming, name): value for name, value in tensors.items()}
    if naming is _GPT2 and fields["no_bias"]:
        fields["no_bias"] = not _has_bias(tensors)  # it may have learned some since its export
        tensors = {k: v for k, v in tensors.items() if not (fields["no_bias"] and _is_bias(k))}
    model = ModelConfig.model_validate(fields)
    inner = Inner().but(model=model, row_length=fields["max_seq_len"])
    params, used = {}, set()
    for name, like in parameters_of(empty_model(inner)).items():
        expected = _to_theirs(naming, model, name, like)
        params[name] = _to_ours(naming, name, [_take(tensors, *item) for item in expected.items()])
        used.update(expected)
    _refuse_rest(model, {k: v for k, v in tensors.items() if k not in used}, params)
    return fields, params


def _theirs(naming: Naming, name: str) -> tuple[str, ...]:
    """Their name of one of our parameters, or the names of its parts."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("blocks."):
        return (f"{naming.outer[module]}.{kind}",)
    _, number, module = module.split(".", 2)
    found = naming.inner[module]
    parts = (found,) if isinstance(found, str) else found
    return tuple(f"{naming.blocks}.{number}.{part}.{kind}" for part in parts)


def _to_theirs(naming: Naming, model: ModelConfig, name: str, value: Tensor) -> dict[str, Tensor]:
    """One of our parameters as theirs: cut into parts, or turned; works on the meta device too."""
    names = _theirs(naming, name)
    if name.endswith("qkv.weight") and len(names) > 1:
        parts = value.split([model.d_model, *2 * [model.kv_heads * model.head_dim]])
    else:
        parts = value.chunk(len(names))
    return {
        theirs: part.T if _is_turned(naming, name, part) else part
        for theirs, part in zip(names, parts, strict=True)
    }


def _to_ours(naming: Naming, name: str, parts: list[Tensor]) -> Tensor:
    """The reverse, in fp32; a copy, since the parts may be mapped from a file."""
    parts = [part.T if _is_turned(naming, name, part) else part for part in parts]
    return torch.cat([part.float() for part in parts]).contiguous()


def _is_turned(naming: Naming, name: str, value: Tensor) -> bool:
    return naming.transposed and name.startswith("blocks.") and value.dim() == 2


def _with_zero_biases(inner: Inner, params: Tree) -> dict[str, Tensor]:
    """GPT-2 always has biases: zeros where ours has none, in the order of a model that has them."""
    model = inner.model.model_copy(update={"no_bias": False})
    full = parameters_of(empty_model(inner.model_copy(update={"model": model})))
    return {
        name: params[name] if name in params else torch.zeros(like.shape)
        for name, like in full.items()
    }


def _has_bias(tensors: Mapping[str, Tensor]) -> bool:
    return any(bool(value.any()) for name, value in tensors.items() if _is_bias(name))


def _is_bias(name: str) -> bool:
    return name.endswith(".bias") and not name.endswith(BUFFERS)


def _full_name(naming: Naming, name: str) -> str:
    return name if name.startswith((naming.base, "lm_head.")) else naming.base + name


def _take(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    """A tensor of the shape that the config gives.

    Raises:
        CheckpointError: it is missing, holds no floats, or has another shape.
    """
    if name not in tensors:
        raise CheckpointError(f"the tensor {name} is missing, which config.json calls for")
    value = tensors[name]
    if value.shape != like.shape or not value.is_floating_point():
        raise CheckpointError(
            f"the tensor {name} is {value.dtype} of shape {list(value.shape)}; config.json calls "
            f"for floats of shape {list(like.shape)}"
        )
    return value


def _refuse_rest(model: ModelConfig, rest: Mapping[str, Tensor], params: Tree) -> None:
    """Refuse tensors that would be lost; a tied output matrix may stand there a second time."""
    for name, value in rest.items():
        if name == "lm_head.weight" and model.tied:
            if not torch.equal(value.float(), params["embedding.weight"]):
                raise CheckpointError(
                    "lm_head.weight differs from the embedding, but config.json has "
                    "tie_word_embeddings=true"
                )
        elif not name.endswith(BUFFERS):
            raise CheckpointError(
                f"the tensor {name} has no place in a {model.name} model of ours; train it as it "
                "is with llm_config.model.name=hf_causal_lm"
            )
