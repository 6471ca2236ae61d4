"""A seeded model from its configuration, and its parameters as a named tree."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.core.seeds import derive_seed
from photon.core.tree import Tree
from photon.model.causal_lm import HuggingFaceLM
from photon.model.decoder import Decoder
from photon.model.sharding import is_sharded, like_parameter

CPU = torch.device("cpu")
LanguageModel = Decoder | HuggingFaceLM
Shard = Callable[[nn.Module], None]
RESIDUAL = ("attention.out.weight", "ffn.down.weight")


def build_model(
    inner: Inner, seed: int, device: torch.device = CPU, *, shard: Shard | None = None
) -> LanguageModel:
    """A seeded model in float32; the weights depend on nothing but `llm` and `seed`.

    Args:
        shard: splits the model's parameters over processes before they take any memory.
    """
    if inner.model.name == "hf_causal_lm":
        model: LanguageModel = HuggingFaceLM(inner, derive_seed(seed, "init"))
        if shard is not None:
            shard(model)
        return model.to(device)
    model = empty_model(inner)
    if shard is not None:
        shard(model)
    model.to_empty(device=device)
    assert isinstance(model, Decoder)
    model.add_tables(device)
    initialize(model, inner.model, seed)
    return model


def model_with(inner: Inner, params: Tree, device: torch.device = CPU) -> LanguageModel:
    """A model of these parameters, to be read and not to be trained.

    On their device our own decoder shares their memory; a model of `transformers` has a copy.

    Raises:
        RuntimeError: a parameter is missing, or has another shape.
    """
    if inner.model.name == "hf_causal_lm":  # its tables of positions are made with its weights
        copy = HuggingFaceLM(inner, None)
        if missing := parameters_of(copy).keys() - params.keys():
            raise RuntimeError(f"Missing key: {min(missing)}")
        load_parameters(copy, params)
        return copy.to(device)
    model = empty_model(inner)
    assert isinstance(model, Decoder)
    model.load_state_dict({name: value.float() for name, value in params.items()}, assign=True)
    model.add_tables()
    return model.to(device)


def empty_model(inner: Inner) -> LanguageModel:
    """The model's shapes, on the meta device: no memory, no weights."""
    with torch.device("meta"):
        return HuggingFaceLM(inner, 0) if inner.model.name == "hf_causal_lm" else Decoder(inner)


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Seeded weights: matrices normal, norms one, biases zero.

    The standard deviation is `init_std` for Llama and sqrt(2 / fan_in) for MPT (He et al. 2015,
    eq. 10); projections into the residual stream are divided by sqrt(2 n_layers). Each parameter
    has its own address, so the result does not depend on the order of layers or on the number of
    processes.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = math.sqrt(2.0 / parameter.shape[1]) if config.is_mpt else config.init_std
        if name.endswith(RESIDUAL):
            std /= math.sqrt(2 * config.n_layers)
        generator = torch.Generator().manual_seed(derive_seed(seed, f"init:{name}"))
        weights = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        parameter.copy_(like_parameter(weights, parameter))


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, tied weights once, without gradients; views, not copies."""
    return {name: value.detach() for name, value in model.named_parameters()}


@torch.no_grad()
def load_parameters(model: nn.Module, params: Tree) -> None:
    """Copy a tree into the model's parameters, in place."""
    own = dict(model.named_parameters())
    for name, value in params.items():
        own[name].copy_(like_parameter(value, own[name]) if is_sharded(own[name]) else value)
