"""What a model costs: parameters and arithmetic. Computed from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from photon.config.llm import Inner
from photon.core.tree import num_elements
from photon.model.build import empty_model, parameters_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """Costs of one model.

    Attributes:
        parameters: each tied weight once.
        embeddings: of these, in tables of tokens and positions and an untied output layer.
        hidden_matrices: of these, elements of two-dimensional weights between them.
        flops_per_token: of one training step, forward and backward.
    """

    parameters: int
    embeddings: int
    hidden_matrices: int
    flops_per_token: int


def model_cost(inner: Inner) -> ModelCost:
    """Count parameters on the meta device, and the arithmetic of a token.

    6 FLOPs per element of every matrix that multiplies (2 forward, 4 backward), the output layer
    included whether tied or not, and 12 L D T for attention scores and their use (Chowdhery et
    al. 2022, appendix B). The causal mask is not credited, as published utilisations do not.
    """
    model = empty_model(inner)
    params = parameters_of(model)
    total = num_elements(params)
    embeddings = embedding_names(model)
    in_embeddings = sum(params[name].numel() for name in embeddings)
    matrices = sum(p.numel() for n, p in params.items() if p.dim() >= 2 and n not in embeddings)
    config = inner.model
    multiplied = matrices + config.vocab_size * config.d_model
    attention = 12 * config.n_layers * config.d_model * inner.row_length
    return ModelCost(
        parameters=total,
        embeddings=in_embeddings,
        hidden_matrices=matrices,
        flops_per_token=6 * multiplied + attention,
    )


def embedding_names(model: nn.Module) -> set[str]:
    """Names of token and position tables and of an untied output layer: what Muon leaves alone."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    output: nn.Module | None = getattr(model, "output_layer", None)
    own = [*tables, *(output.parameters() if output is not None else ())]
    found = {id(parameter) for parameter in own if parameter.dim() >= 2}
    return {name for name, p in model.named_parameters() if id(p) in found}
