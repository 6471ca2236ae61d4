"""A decoder-only Transformer: the MPT and the Llama family.

Pre-norm blocks of causal attention and a feed-forward layer. MPT: LayerNorm, GELU, learned
positions or linear biases, biases or none. Llama: RMSNorm, SwiGLU, rotary positions, grouped
queries. Shapes: B rows, T positions, D width, H heads, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.model.activations import loss_chunk
from photon.model.cache import KeyValueCache, LayerCache
from photon.model.layout import Layout
from photon.model.loss import TokenLoss, linear_cross_entropy, logits_gradient
from photon.model.positions import (
    alibi_slopes,
    causal_bias,
    require_positions,
    rotary_table,
    rotate,
)
from photon.model.precision import compute_dtype


class Place(NamedTuple):
    """Where the tokens of a forward pass stand; the same for all blocks.

    Attributes:
        cos, sin: rotary tables of these positions, [T, D / H], or [B, 1, T, D / H] where rows
            differ; None without rotary positions.
        bias: added to the scores; None is plain causal attention.
        is_causal: mask the future where there is no bias; false for a single cached token.
    """

    cos: Tensor | None
    sin: Tensor | None
    bias: Tensor | None
    is_causal: bool

    def to(self, dtype: torch.dtype, *, fused: bool) -> Place:
        """The same in the type of the blocks' arithmetic: once, and not in every block.

        Args:
            fused: attention is, which takes a bias in no other type.
        """
        cos, sin, bias = (t if t is None else t.to(dtype) for t in self[:3])
        return Place(cos, sin, bias if fused else self.bias, self.is_causal)


class LayerNorm(nn.LayerNorm):
    """LayerNorm that runs in the precision of autocast, as MPT's does."""

    def forward(self, input: Tensor) -> Tensor:
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return super().forward(input)
        dtype = compute_dtype(input)
        bias = None if self.bias is None else self.bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            return F.layer_norm(
                input.to(dtype), self.normalized_shape, self.weight.to(dtype), bias, self.eps
            )


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    if config.is_mpt:
        return LayerNorm(width, eps=config.norm_eps, bias=config.has_bias)
    return nn.RMSNorm(width, eps=config.norm_eps)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, written out; [B, H, T, d]."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    bias = place.bias
    if bias is None and place.is_causal:
        bias = causal_bias(q.shape[2], k.shape[2], None, q.device)
    if bias is not None:
        scores = scores + bias
    return scores.float().softmax(dim=-1).to(v.dtype) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
    """The same by PyTorch's fused kernels."""
    bias, grouped = place.bias, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bias is None and place.is_causal, enable_gqa=grouped
    )


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.sizes = [config.d_model, *2 * [config.kv_heads * config.head_dim]]
        self.attend = fused_attention if config.attention.attn_impl == "flash" else plain_attention
        self.qkv = nn.Linear(config.d_model, sum(self.sizes), bias=config.has_bias)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.has_bias)
        self.q_norm = self.k_norm = None
        if config.attention.qk_norm:
            self.q_norm = nn.RMSNorm(self.head_dim, eps=config.norm_eps)
            self.k_norm = nn.RMSNorm(self.head_dim, eps=config.norm_eps)

    def forward(self, x: Tensor, place: Place, cache: LayerCache | None = None) -> Tensor:
        b, t, d = x.shape
        parts = self.qkv(x).split(self.sizes, dim=-1)
        q, k, v = (part.view(b, t, -1, self.head_dim).transpose(1, 2) for part in parts)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = (norm(x.float()).to(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        if place.cos is not None and place.sin is not None:
            q, k = rotate(q, place.cos, place.sin), rotate(k, place.cos, place.sin)
        if cache is not None:
            k, v = cache.append(k, v)
        y = self.attend(q, k, v, place)
        return self.out(y.transpose(1, 2).reshape(b, t, d))


class SwiGLU(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.d_model, 2 * config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class GeluMLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.approximate = "tanh" if config.ffn_act == "gelu_tanh" else "none"
        self.up = nn.Linear(config.d_model, config.ffn_width, bias=config.has_bias)
        self.down = nn.Linear(config.ffn_width, config.d_model, bias=config.has_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.d_model)
        self.attention = Attention(config)
        self.ffn_norm = make_norm(config, config.d_model)
        self.ffn = GeluMLP(config) if config.is_mpt else SwiGLU(config)

    def forward(self, x: Tensor, place: Place, cache: LayerCache | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), place, cache)
        return x + self.ffn(self.ffn_norm(x))


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Without torch's random weights: to draw them on the meta device imports its compiler."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class Decoder(nn.Module):
    """The language model: token ids to logits, or to the loss of given targets."""

    takes_layout = True

    cos: Tensor | None
    sin: Tensor | None
    slopes: Tensor | None

    def __init__(self, inner: Inner) -> None:
        super().__init__()
        config = self.config = inner.model
        self.max_seq_len = inner.positions
        self.vocab_size = config.vocab_size
        self.checkpoints_activations = bool(
            inner.sharding and inner.sharding.activation_checkpointing
        )
        self.z_loss = inner.z_loss
        self.loss_chunk = loss_chunk(inner)
        self.gradient_of = logits_gradient
        self.embedding = _embedding(config.vocab_size, config.d_model)
        self.positions = None
        if config.is_mpt and not config.attention.alibi:
            self.positions = _embedding(self.max_seq_len, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config, config.d_model)
        self.head = None
        if not config.tied:
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for name in ("cos", "sin", "slopes"):
            self.register_buffer(name, None, persistent=False)

    def add_tables(self, device: torch.device | None = None) -> None:
        """Tables of positions: buffers that are computed, so neither saved nor sent."""
        config = self.config
        cos = sin = slopes = None
        if not config.is_mpt:
            theta = config.attention.rope_theta
            cos, sin = rotary_table(config.head_dim, self.max_seq_len, theta)
        elif config.attention.alibi:
            slopes = alibi_slopes(config.n_heads, config.attention.alibi_bias_max)
        for name, table in (("cos", cos), ("sin", sin), ("slopes", slopes)):
            self.register_buffer(
                name, None if table is None else table.to(device=device), persistent=False
            )

    @property
    def output_layer(self) -> nn.Linear | None:
        """What makes logits, with a matrix of its own; None where it is tied to the embedding."""
        return self.head

    @property
    def output_weight(self) -> Tensor:
        """Matrix that turns hidden states into logits: [V, D]."""
        return self.embedding.weight if self.head is None else self.head.weight

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor | TokenLoss:
        """Logits [B, T, V] for tokens [B, T], or the summed loss of targets [B, T].

        Args:
            cache: keys and values of the tokens before these; gains those of these.

        Raises:
            DataError: more tokens than the model has positions.
        """
        if targets is None:
            return self.project(self.features(tokens, cache))
        return self.loss_of(tokens, targets)

    def loss_of(self, tokens: Tensor, targets: Tensor) -> TokenLoss:
        return linear_cross_entropy(
            self.features(tokens).flatten(0, 1),
            self.output_weight,
            targets.flatten(),
            z_loss=self.z_loss,
            chunk=self.loss_chunk,
            gradient_of=self.gradient_of,
        )

    def features(
        self, tokens: Tensor, cache: KeyValueCache | None = None, layout: Layout | None = None
    ) -> Tensor:
        """What the logits are made of, [B, T, D]: to make those that are needed and no others.

        Args:
            layout: where the tokens stand, if not one after another.

        Raises:
            DataError: more tokens than the model has positions.
        """
        return self.norm(self._blocks(tokens, cache, layout))

    def project(self, features: Tensor) -> Tensor:
        """Logits [..., V] of features [..., D]."""
        return F.linear(features, self.output_weight)

    def _blocks(self, tokens: Tensor, cache: KeyValueCache | None, layout: Layout | None) -> Tensor:
        past = 0 if cache is None else cache.length
        at: Any = slice(past, past + tokens.shape[1])
        if layout is None:
            place = self._place(past, tokens.shape[1], tokens.device)
        else:
            place, at = self._place_by(layout), layout.positions
        x = self.embedding(tokens)
        fused = self.config.attention.attn_impl == "flash"
        place = place.to(compute_dtype(x), fused=fused)
        if self.positions is not None:
            x = x + self.positions.weight[at]
        for number, block in enumerate(self.blocks):
            if cache is not None:
                x = block(x, place, cache.layers[number])
            elif self.checkpoints_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, place, use_reentrant=False)
            else:
                x = block(x, place)
        return x

    def _place(self, past: int, count: int, device: torch.device) -> Place:
        end = past + count
        require_positions(end, self.max_seq_len)
        cos, sin, slopes = self.cos, self.sin, self.slopes
        bias = None
        if slopes is not None or (past and count > 1):
            bias = causal_bias(count, end, slopes, device)
        tables = (None, None) if cos is None or sin is None else (cos[past:end], sin[past:end])
        return Place(*tables, bias, is_causal=count > 1)

    def _place_by(self, layout: Layout) -> Place:
        at, cos, sin = layout.positions, self.cos, self.sin
        tables = (None, None)
        if cos is not None and sin is not None:
            tables = (cos[at].unsqueeze(1), sin[at].unsqueeze(1))
        return Place(*tables, layout.bias(self.slopes), is_causal=True)

    def new_cache(self) -> KeyValueCache:
        return KeyValueCache(self.config.n_layers)

    def compile_blocks(self) -> None:
        """Compile the repeated block once, and the loss's pass over the logits."""
        for block in self.blocks:
            block.compile()
        self.gradient_of = torch.compile(logits_gradient)

    def compile_whole(self) -> None:
        """Compile the pass of a microbatch as one graph, from its tokens to its loss."""
        self.loss_of = torch.compile(self.loss_of, fullgraph=True)
