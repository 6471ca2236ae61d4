"""What a model costs: parameters, arithmetic, memory. Computed from the configuration alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from photon.config.llm import LlmConfig
from photon.core.tree import num_elements
from photon.model.build import empty_model, parameters_of

MOMENTS_PER_PARAMETER = {"adamw": 2, "decoupled_adamw": 2, "adopt": 2, "sgd": 0}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemory:
    """Bytes on one device; `total` leaves out what the framework itself needs."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations + self.logits


def model_cost(llm: LlmConfig) -> ModelCost:
    """Count parameters on the meta device, and the arithmetic of a token.

    6 FLOPs per element of every matrix that multiplies (2 forward, 4 backward), the output layer
    included whether tied or not, and 12 L D T for attention scores and their use (Chowdhery et
    al. 2022, appendix B). The causal mask is not credited, as published utilisations do not.
    """
    model = empty_model(llm)
    params = parameters_of(model)
    total = num_elements(params)
    embeddings = embedding_names(model)
    in_embeddings = sum(params[name].numel() for name in embeddings)
    matrices = sum(p.numel() for n, p in params.items() if p.dim() >= 2 and n not in embeddings)
    config = llm.model
    multiplied = matrices + config.vocab_size * config.d_model
    attention = 12 * config.n_layers * config.d_model * llm.max_seq_len
    return ModelCost(
        parameters=total,
        embeddings=in_embeddings,
        hidden_matrices=matrices,
        flops_per_token=6 * multiplied + attention,
    )


def embedding_names(model: nn.Module) -> set[str]:
    """Names of token and position tables and of an untied output layer: what Muon leaves alone."""
    vocab = getattr(model, "vocab_size", None)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    tables |= {
        id(m.weight)
        for m in model.modules()
        if isinstance(m, nn.Linear) and m.out_features == vocab
    }
    return {name for name, p in model.named_parameters() if id(p) in tables}


def training_memory(llm: LlmConfig, rows: int, cost: ModelCost | None = None) -> TrainingMemory:
    """Estimate for `rows` of `max_seq_len` tokens in one forward pass.

    Weights, gradients and moments are fp32. An activation is counted for every tensor that the
    backward pass of a block reads; with checkpointing only the block's input, and one block whole.
    """
    cost = cost or model_cost(llm)
    tokens = rows * llm.max_seq_len
    size = 4 if llm.precision == "fp32" else 2
    per_block = tokens * _block_elements(llm) * size
    stream = tokens * llm.model.d_model * 4
    checkpointed = llm.fsdp_config is not None and llm.fsdp_config.activation_checkpointing
    blocks = llm.model.n_layers
    return TrainingMemory(
        weights=4 * cost.parameters,
        gradients=4 * cost.parameters,
        moments=4 * moment_elements(llm.optimizer.name, cost),
        activations=blocks * stream + per_block if checkpointed else blocks * (stream + per_block),
        logits=_logits_bytes(llm, tokens, size),
    )


def _block_elements(llm: LlmConfig) -> int:
    """Elements per token that a block keeps for its backward pass."""
    c = llm.model
    qkv = c.d_model + 2 * c.kv_heads * c.head_dim
    attention = 2 * c.d_model + qkv + c.d_model  # norm's output, sum before it, q k v, mixed values
    if not c.is_mpt:
        attention += qkv  # rotated copies
    if c.attn_config.attn_impl == "torch":
        attention += 2 * c.n_heads * llm.max_seq_len
    feed_forward = 2 * c.d_model + (2 if c.is_mpt else 4) * c.ffn_width
    return attention + feed_forward


def _logits_bytes(llm: LlmConfig, tokens: int, size: int) -> int:
    """Logits, their fp32 form and their gradient, of the tokens that exist at once."""
    fp32 = 4 * tokens * llm.model.vocab_size
    if llm.model.name != "hf_causal_lm":
        fp32 = min(fp32, max(llm.max_logits_bytes, 4 * llm.model.vocab_size))
    return fp32 + 2 * (fp32 // 4) * size


def moment_elements(name: str, cost: ModelCost) -> int:
    """Numbers that the inner optimizer keeps."""
    if name == "muon":
        return cost.hidden_matrices + 2 * (cost.parameters - cost.hidden_matrices)
    return MOMENTS_PER_PARAMETER[name] * cost.parameters
