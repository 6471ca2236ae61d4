"""The model against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from photon.config.schema import ModelConfig
from photon.core.tree import digest
from photon.model.decoder import (
    build_model,
    cross_entropy_sum,
    load_parameters,
    parameters_of,
    rotary_table,
    rotate,
)
from photon.model.generate import generate

CONFIG = ModelConfig(d_model=16, n_heads=2, n_layers=2, ffn_hidden_size=24, vocab_size=50)


@pytest.fixture
def model():
    return build_model(CONFIG, max_seq_len=12, seed=3)


def reference_logits(params: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Same network, written with loops and float64, from the papers' formulas."""
    p = {name: value.double() for name, value in params.items()}

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + CONFIG.norm_eps) * weight

    def turn(x, position):
        half = len(x) // 2
        angle = position * CONFIG.rope_theta ** (-torch.arange(half).double() / half)
        a, b = x[:half], x[half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin])

    out = []
    for row in tokens:
        x = p["embedding.weight"][row]
        for layer in range(CONFIG.n_layers):
            pre = f"blocks.{layer}."
            h = norm(x, p[pre + "attention_norm.weight"])
            qkv = h @ p[pre + "attention.qkv.weight"].T
            heads = []
            for head in range(CONFIG.n_heads):
                part = slice(head * 8, head * 8 + 8)
                q, k, v = (qkv[:, i * 16 : (i + 1) * 16][:, part] for i in range(3))
                mixed = []
                for t in range(len(row)):
                    scores = torch.stack(
                        [turn(q[t], t) @ turn(k[s], s) / math.sqrt(8) for s in range(t + 1)]
                    )
                    mixed.append(torch.softmax(scores, 0) @ v[: t + 1])
                heads.append(torch.stack(mixed))
            x = x + torch.cat(heads, -1) @ p[pre + "attention.out.weight"].T
            h = norm(x, p[pre + "ffn_norm.weight"])
            gate, up = (h @ p[pre + "ffn.gate_up.weight"].T).chunk(2, -1)
            x = x + (gate / (1 + torch.exp(-gate)) * up) @ p[pre + "ffn.down.weight"].T
        out.append(norm(x, p["norm.weight"]) @ p["embedding.weight"].T)
    return torch.stack(out)


def test_logits_are_those_of_the_formulas(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.01)
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    expected = reference_logits(parameters_of(model), tokens)
    torch.testing.assert_close(model(tokens).double(), expected, rtol=1e-4, atol=1e-5)


def test_the_future_is_not_seen(model):
    tokens = torch.randint(0, 50, (1, 12))
    changed = tokens.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 50
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    cos, sin = rotary_table(CONFIG, 12)
    q, k = torch.randn(8), torch.randn(8)
    turned = rotate(q.expand(12, 8), cos, sin), rotate(k.expand(12, 8), cos, sin)
    torch.testing.assert_close(turned[0].norm(dim=-1), q.norm().expand(12))
    dots = turned[0] @ turned[1].T
    torch.testing.assert_close(dots[3, 1], dots[9, 7], rtol=1e-4, atol=1e-5)


def test_initial_weights_are_seeded_and_scaled():
    wide = ModelConfig(d_model=64, n_heads=2, n_layers=8, ffn_hidden_size=64, vocab_size=500)
    a, b, c = (build_model(wide, 8, seed) for seed in (1, 1, 2))
    assert digest(parameters_of(a)) == digest(parameters_of(b)) != digest(parameters_of(c))
    params = parameters_of(a)
    assert params["embedding.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert params["blocks.3.ffn.down.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    assert bool((params["norm.weight"] == 1).all())


def test_no_buffer_would_be_sent_and_tied_weights_count_once(model):
    assert set(model.state_dict()) == set(parameters_of(model))
    assert sum(v.numel() for v in parameters_of(model).values()) == 50 * 16 + 2 * (
        3 * 16 * 16 + 16 * 16 + 2 * 24 * 16 + 24 * 16 + 2 * 16
    ) + 16  # fmt: skip


def test_loading_parameters_copies(model):
    params = {name: torch.full_like(v, 0.5) for name, v in parameters_of(model).items()}
    load_parameters(model, params)
    assert digest(parameters_of(model)) == digest(params)
    params["norm.weight"].zero_()
    assert bool((model.norm.weight == 0.5).all())


@pytest.mark.parametrize("scale", [1.0, 60.0])
def test_cross_entropy_is_torchs(scale):
    logits = torch.randn(40, 50) * scale
    targets = torch.randint(0, 50, (40,))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mine = cross_entropy_sum(ours, targets)
    reference = F.cross_entropy(theirs, targets, reduction="sum")
    (mine / 7).backward()
    (reference / 7).backward()
    torch.testing.assert_close(mine, reference)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_cross_entropy_of_bf16_logits_is_computed_in_fp32():
    logits = torch.randn(40, 50).bfloat16()
    targets = torch.randint(0, 50, (40,))
    ours = logits.clone().requires_grad_()
    loss = cross_entropy_sum(ours, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert ours.grad is not None
    assert ours.grad.dtype == torch.bfloat16


def test_generation_is_seeded_stops_and_slides(model):
    def text(**options):
        return list(generate(model, [1, 2], max_new_tokens=20, **options))

    assert text(seed=1) == text(seed=1) != text(seed=2)
    greedy = text(temperature=0)
    assert len(greedy) == 20
    with torch.no_grad():
        assert greedy[0] == int(model(torch.tensor([[1, 2]]))[0, -1].argmax())
        window = torch.tensor([[1, 2, *greedy][7:19]])
        assert greedy[17] == int(model(window)[0, -1].argmax())
    assert text(temperature=0, stop=greedy[3])[:3] == greedy[: greedy.index(greedy[3])][:3]
    assert greedy[3] not in text(temperature=0, stop=greedy[3])
