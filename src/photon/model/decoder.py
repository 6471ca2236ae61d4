"""A decoder-only Transformer of the Llama family.

Pre-norm blocks of causal attention with rotary positions and a SwiGLU layer, RMSNorm, no biases,
tied embeddings. Shapes: B rows, T positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from photon.config.schema import ModelConfig
from photon.core.seeds import derive_seed
from photon.core.tree import Tree


def rotary_table(config: ModelConfig, max_seq_len: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions: [T, D / H] each (Su et al. 2021, eq. 34)."""
    head_dim = config.d_model // config.n_heads
    inverse = config.rope_theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), inverse)
    table = torch.cat([angles, angles], dim=-1)
    return table.cos().float(), table.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to x: [B, H, T, D / H]; the two halves of a head form the pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n_heads, d // self.n_heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.ffn_hidden_size, bias=False)
        self.down = nn.Linear(config.ffn_hidden_size, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.ffn = SwiGLU(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.ffn(self.ffn_norm(x))


class Decoder(nn.Module):
    """The language model: token ids to logits."""

    def __init__(self, config: ModelConfig, max_seq_len: int) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        cos, sin = rotary_table(config, max_seq_len)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, T, V] for tokens [B, T]; position t predicts token t + 1."""
        t = tokens.shape[1]
        cos, sin = self.get_buffer("cos")[:t], self.get_buffer("sin")[:t]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight)


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Seeded weights: N(0, std), residual projections divided by sqrt(2 n_layers), norms one.

    Each parameter has its own address, so the result does not depend on the order of layers or
    on the number of processes.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, f"init:{name}"))
        residual = name.endswith(("attention.out.weight", "ffn.down.weight"))
        std = config.init_std / math.sqrt(2 * config.n_layers) if residual else config.init_std
        parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def build_model(config: ModelConfig, max_seq_len: int, seed: int) -> Decoder:
    """A seeded model on the CPU in float32."""
    model = Decoder(config, max_seq_len)
    initialize(model, config, seed)
    return model


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters by name, tied weights once, without gradients; views, not copies."""
    return {name: value.detach() for name, value in model.named_parameters()}


@torch.no_grad()
def load_parameters(model: nn.Module, params: Tree) -> None:
    """Copy a tree into the model's parameters, in place."""
    own = dict(model.named_parameters())
    for name, value in params.items():
        own[name].copy_(value)


class _CrossEntropy(torch.autograd.Function):
    """Sum of token losses; turns the log-probabilities into the gradient in the same memory."""

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        log_probs = F.log_softmax(logits.float(), dim=-1)
        index = targets.unsqueeze(-1)
        loss = -log_probs.gather(-1, index).sum()
        gradient = log_probs.exp_()
        gradient.scatter_add_(-1, index, gradient.new_full(index.shape, -1.0))
        ctx.save_for_backward(gradient.to(logits.dtype))
        return loss

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(grad_output), None


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum over tokens of -log p(target), in nats.

    Equal to `F.cross_entropy(..., reduction="sum")`, but the backward pass needs one multiplication
    instead of a second pass over exponentials. It supports one backward pass.

    Args:
        logits: [N, V], any float type.
        targets: [N], int64.
    """
    return _CrossEntropy.apply(logits, targets)  # pyright: ignore[reportReturnType]
