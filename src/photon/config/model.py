"""Keys of the model: one decoder-only Transformer, and what tells its families apart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from photon.config.base import Section


class AttentionConfig(Section):
    """Self-attention and its positions."""

    attn_impl: Literal["flash", "torch"] = Field(
        default="flash",
        description="flash: PyTorch's fused attention; torch: plain matrix products",
    )
    alibi: bool = Field(
        default=False, description="mpt: linear attention biases in place of learned positions"
    )
    alibi_bias_max: int = Field(default=8, ge=1, description="mpt: largest exponent of the biases")
    kv_n_heads: int | None = Field(
        default=None,
        ge=1,
        description="llama: key and value heads (grouped queries); null: n_heads",
    )
    qk_norm: bool = Field(default=False, description="llama: RMSNorm on queries and keys")
    rope_theta: float = Field(
        default=10000.0, gt=0, description="llama: base of the rotary positions"
    )


class ModelConfig(Section):
    """A decoder-only Transformer."""

    name: Literal["mpt_causal_lm", "llama", "hf_causal_lm"] = Field(
        default="llama",
        description="family; hf_causal_lm is whatever transformers builds from a folder",
    )
    d_model: int = Field(default=96, ge=1, description="width")
    n_heads: int = Field(default=4, ge=1, description="attention heads")
    n_layers: int = Field(default=3, ge=1, description="blocks")
    vocab_size: int = Field(default=2048, ge=2, description="tokens in the embedding")
    max_positions: int | None = Field(
        default=None, ge=2, description="positions of the model; null: llm_config.max_seq_len"
    )
    expansion_ratio: int = Field(
        default=4, ge=1, description="mpt: width of the GELU layer, in widths of the model"
    )
    ffn_hidden_size: int = Field(default=256, ge=1, description="llama: width of the SwiGLU layer")
    ffn_act: Literal["gelu", "gelu_tanh"] = Field(
        default="gelu", description="mpt: exact GELU, or its tanh form (GPT-2)"
    )
    no_bias: bool = Field(default=False, description="mpt: no biases anywhere (llama has none)")
    tied: bool = Field(default=True, description="the output projection is the token embedding")
    norm_eps: float = Field(default=1e-5, gt=0, description="epsilon of the norms")
    init_std: float = Field(
        default=0.02,
        gt=0,
        description="llama: standard deviation of the initial weights (mpt: Kaiming normal)",
    )
    attention: AttentionConfig = AttentionConfig()
    hf_folder: str | None = Field(
        default=None, description="hf_causal_lm: a local folder, or a name if the hub is in reach"
    )
    hf_weights: bool = Field(
        default=True, description="hf_causal_lm: start from the folder's weights, not from new ones"
    )
    hf_overrides: dict[str, Any] = Field(
        default={}, description="hf_causal_lm: entries that replace those of the folder's config"
    )
    hf_config: dict[str, Any] = Field(
        default={}, description="hf_causal_lm: the whole config, filled in when a run starts"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.name == "hf_causal_lm":
            if self.hf_folder is None and not self.hf_config:
                raise ValueError(
                    "name=hf_causal_lm needs pretrained_model_name_or_path, a folder with a "
                    "config.json of transformers"
                )
            return self
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model={self.d_model} must be a multiple of n_heads={self.n_heads}")
        return self._check_mpt() if self.name == "mpt_causal_lm" else self._check_llama()

    def _check_mpt(self) -> ModelConfig:
        attention = self.attention
        if attention.qk_norm or attention.kv_n_heads not in (None, self.n_heads):
            raise ValueError("attn_config.qk_norm and .kv_n_heads belong to name=llama")
        return self

    def _check_llama(self) -> ModelConfig:
        if self.head_dim % 2:
            raise ValueError(
                f"d_model={self.d_model} must be an even multiple of n_heads={self.n_heads}: "
                "rotary positions turn pairs"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(
                f"attn_config.kv_n_heads={self.kv_heads} must divide n_heads={self.n_heads}"
            )
        if self.attention.alibi:
            raise ValueError("attn_config.alibi belongs to name=mpt_causal_lm")
        return self

    @property
    def is_mpt(self) -> bool:
        return self.name == "mpt_causal_lm"

    @property
    def has_bias(self) -> bool:
        return self.is_mpt and not self.no_bias

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        return self.attention.kv_n_heads or self.n_heads

    @property
    def ffn_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        return self.expansion_ratio * self.d_model if self.is_mpt else self.ffn_hidden_size
