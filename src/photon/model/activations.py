"""What a forward and a backward pass take, counted from the configuration alone.

The counts are of the tensors that PyTorch saves for the backward pass of our own blocks, each once.
"""

from __future__ import annotations

from dataclasses import dataclass

from photon.config.llm import Inner


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Bytes of a pass of some rows at its two highest moments.

    Attributes:
        kept: by the blocks for the backward pass, when the loss is made, with the weights in the
            precision of the step.
        loss: logits with their gradient, of the tokens that exist at once, and what surrounds them;
            or what the backward pass of a block takes, if that is more.
        output_gradient: of the output layer's weight, where the loss is made in chunks.
        last: what is left for the backward pass of the last block, the first of the model, and what
            it takes.
    """

    kept: int
    loss: int
    output_gradient: int
    last: int


def training_pass(inner: Inner, rows: int, blocks: int, matrices: int) -> Pass:
    """Of `rows` of `max_seq_len` tokens.

    Args:
        blocks: that keep something: those below the first trained parameter do not.
        matrices: elements of the weights that are cast to the precision of the step.
    """
    config, tokens = inner.model, rows * inner.row_length
    block, backward = tokens * _block_bytes(inner), tokens * _backward_bytes(inner)
    stream = tokens * config.d_model * 4
    checkpoints = inner.sharding is not None and inner.sharding.activation_checkpointing
    cast = matrices * _factor_size(inner) if inner.precision != "fp32" and rows else 0
    ends = 3 * stream  # the embedding's output, the last norm's input and output
    ends += _bias_bytes(inner) if rows else 0
    chunk = tokens if config.name == "hf_causal_lm" else min(tokens, loss_chunk(inner))
    return Pass(
        kept=blocks * (stream if checkpoints else block) + ends + cast,
        loss=max(chunk * _logit_bytes(inner) + _output_layer_bytes(inner, tokens), backward),
        output_gradient=4 * config.vocab_size * config.d_model if chunk < tokens else 0,
        last=stream + block + backward if blocks else 0,
    )


def scored_rows(inner: Inner) -> int:
    """Rows of one validation pass: as many as are asked for and whose logits may be there at once,
    at least one, since a forward pass makes those of all its rows.
    """
    return min(inner.validation_rows, max(1, loss_chunk(inner) // inner.row_length))


def scoring_bytes(inner: Inner, rows: int) -> int:
    """Of a validation pass: logits beside those of the pass before, or beside their logarithms."""
    return rows * inner.row_length * _logit_bytes(inner)


def _size(inner: Inner) -> int:
    """Bytes of a number in the precision of a step."""
    return 4 if inner.precision == "fp32" else 2


def _factor_size(inner: Inner) -> int:
    """Bytes of a number that a linear layer of a block keeps: of its input, of its weight."""
    return 1 if inner.precision == "amp_fp8" else _size(inner)


def loss_chunk(inner: Inner) -> int:
    """Tokens whose logits, fp32, exist at once in our own loss."""
    return max(1, inner.max_logits_bytes // (4 * inner.model.vocab_size))


def _logit_bytes(inner: Inner) -> int:
    """Per token: logits, in fp32 too where they are not, and what is made of them in fp32."""
    return inner.model.vocab_size * (8 if inner.precision == "fp32" else 10)


def _output_layer_bytes(inner: Inner, tokens: int) -> int:
    """The gradient of the hidden states; else they and the output layer's weight are cast too."""
    hidden = tokens * inner.model.d_model * _size(inner)
    weight = inner.model.vocab_size * inner.model.d_model * _size(inner)
    return hidden if inner.precision == "fp32" else 2 * hidden + weight


def _block_bytes(inner: Inner) -> int:
    """Per token: what a block keeps for its backward pass."""
    c, size = inner.model, _size(inner)
    heads = c.kv_heads * c.head_dim
    norms = size * (2 * c.d_model + 4) if c.is_mpt else 4 * (4 * c.d_model + 2)
    # Of the layers before and after attention, and of the two of the feed-forward one.
    inputs = _factor_size(inner) * (3 * c.d_model + c.ffn_width)
    if c.attention.attn_impl == "torch":
        scores = c.n_heads * inner.row_length
        attention = size * 3 * c.d_model + scores * (4 if size == 4 else 6)
    else:
        rotated = 0 if c.is_mpt else c.d_model + heads
        attention = size * (c.d_model + 2 * heads + rotated) + 4 * c.n_heads
    if c.attention.qk_norm:
        attention += 2 * 4 * (c.d_model + heads)
    return norms + inputs + size * (1 if c.is_mpt else 3) * c.ffn_width + attention


def _backward_bytes(inner: Inner) -> int:
    """Per token: what the backward pass of a feed-forward layer takes beyond what it frees."""
    c = inner.model
    return _size(inner) * (c.d_model + (1 if c.is_mpt else 2) * c.ffn_width)


def _bias_bytes(inner: Inner) -> int:
    """Linear biases of attention, of all rows."""
    c = inner.model
    return 4 * c.n_heads * inner.row_length**2 if c.attention.alibi else 0
