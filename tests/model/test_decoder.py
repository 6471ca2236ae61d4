"""The model against plain formulas, for each family."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from photon.config import load_config
from photon.config.llm import Inner
from photon.config.model import AttentionConfig, ModelConfig
from photon.container.container import digest
from photon.errors import DataError
from photon.model.build import build_model, load_parameters, model_with, parameters_of
from photon.model.flops import model_cost
from photon.model.generate import generate
from photon.model.positions import alibi_slopes, rotary_table, rotate


def inner(*, attention: dict | None = None, **model) -> Inner:
    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "vocab_size": 50, "ffn_hidden_size": 24}
    config = ModelConfig(**{**shape, **model}, attn_config=AttentionConfig(**attention or {}))
    return Inner(model=config, max_seq_len=12)


FAMILIES = {
    "llama": inner(),
    "llama-gqa": inner(n_heads=4, attention={"kv_n_heads": 2}),
    "llama-qk-norm-untied": inner(tie_word_embeddings=False, attention={"qk_norm": True}),
    "mpt": inner(name="mpt_causal_lm"),
    "mpt-no-bias": inner(name="mpt_causal_lm", no_bias=True, ffn_act="gelu_tanh"),
    "mpt-alibi": inner(name="mpt_causal_lm", no_bias=True, attention={"alibi": True}),
    "mpt-alibi-bias": inner(name="mpt_causal_lm", d_model=18, n_heads=3, attention={"alibi": True}),
}


@pytest.fixture(params=FAMILIES, name="config")
def _config(request) -> Inner:
    return FAMILIES[request.param]


def stirred(config: Inner, seed: int = 3):
    """A model whose every weight matters: none of them zero, one or small."""
    model = build_model(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.mul_(2).add_(noise)
    return model


class Formulas:
    """The same network from the papers' formulas: loops, float64, one position at a time."""

    def __init__(self, config: Inner, params: dict[str, torch.Tensor]) -> None:
        self.c, self.p = config.model, {name: v.double() for name, v in params.items()}

    def norm(self, x, name):
        p, eps = self.p, self.c.norm_eps
        if not self.c.is_mpt:
            return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * p[name + ".weight"]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
        return scaled * p[name + ".weight"] + p.get(name + ".bias", 0.0)

    def linear(self, x, name):
        return x @ self.p[name + ".weight"].T + self.p.get(name + ".bias", 0.0)

    def turn(self, x, position):
        half = len(x) // 2
        angle = position * self.c.attention.rope_theta ** (-torch.arange(half).double() / half)
        a, b = x[:half], x[half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])

    def attention(self, x, name):
        c, d = self.c, self.c.head_dim
        qkv = self.linear(x, name + ".qkv")
        sizes = [c.d_model, c.kv_heads * d, c.kv_heads * d]
        q_all, k_all, v_all = qkv.split(sizes, -1)
        heads = []
        for head in range(c.n_heads):
            group = head * c.kv_heads // c.n_heads
            q = q_all[:, head * d : (head + 1) * d]
            k, v = (part[:, group * d : (group + 1) * d] for part in (k_all, v_all))
            if c.attention.qk_norm:
                q, k = self.norm(q, name + ".q_norm"), self.norm(k, name + ".k_norm")
            mixed = []
            for t in range(len(x)):
                scores = torch.stack([self.score(q[t], k[s], t, s, head) for s in range(t + 1)])
                mixed.append(torch.softmax(scores, 0) @ v[: t + 1])
            heads.append(torch.stack(mixed))
        return self.linear(torch.cat(heads, -1), name + ".out")

    def score(self, q, k, t, s, head):
        c = self.c
        if not c.is_mpt:
            q, k = self.turn(q, t), self.turn(k, s)
        score = q @ k / math.sqrt(c.head_dim)
        if c.attention.alibi:
            slopes = {2: [1 / 16, 1 / 256], 3: [1 / 16, 1 / 256, 1 / 4]}[c.n_heads]
            score = score - slopes[head] * (t - s)
        return score

    def feed_forward(self, x, name):
        if not self.c.is_mpt:
            gate, up = self.linear(x, name + ".gate_up").chunk(2, -1)
            return self.linear(gate / (1 + torch.exp(-gate)) * up, name + ".down")
        h = self.linear(x, name + ".up")
        if self.c.ffn_act == "gelu":
            h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        else:
            h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        return self.linear(h, name + ".down")

    def logits(self, tokens):
        out = []
        for row in tokens:
            x = self.p["embedding.weight"][row]
            if "positions.weight" in self.p:
                x = x + self.p["positions.weight"][: len(row)]
            for layer in range(self.c.n_layers):
                pre = f"blocks.{layer}."
                x = x + self.attention(self.norm(x, pre + "attention_norm"), pre + "attention")
                x = x + self.feed_forward(self.norm(x, pre + "ffn_norm"), pre + "ffn")
            head = self.p.get("head.weight", self.p["embedding.weight"])
            out.append(self.norm(x, "norm") @ head.T)
        return torch.stack(out)


TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attn_impl", ["flash", "torch"])
def test_logits_are_those_of_the_formulas(config, attn_impl):
    attention = config.model.attention.model_copy(update={"attn_impl": attn_impl})
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"attention": attention})}
    )
    model = stirred(config)
    expected = Formulas(config, parameters_of(model)).logits(TOKENS)
    torch.testing.assert_close(model(TOKENS).double(), expected, rtol=1e-4, atol=2e-4)


def test_alibi_slopes_of_the_paper():
    assert alibi_slopes(8, 8).tolist() == [2.0**-i for i in range(1, 9)]


def test_the_future_is_not_seen(config):
    model = stirred(config)
    tokens = torch.randint(0, 50, (1, 12))
    changed = tokens.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 50
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-6)
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    cos, sin = rotary_table(8, 12, 10000.0)
    q, k = torch.randn(8), torch.randn(8)
    turned = rotate(q.expand(12, 8), cos, sin), rotate(k.expand(12, 8), cos, sin)
    torch.testing.assert_close(turned[0].norm(dim=-1), q.norm().expand(12))
    dots = turned[0] @ turned[1].T
    torch.testing.assert_close(dots[3, 1], dots[9, 7], rtol=1e-4, atol=1e-5)


def test_initial_weights_are_seeded_and_scaled():
    wide = inner(d_model=64, n_layers=8, ffn_hidden_size=64, vocab_size=500)
    a, b, c = (build_model(wide, seed) for seed in (1, 1, 2))
    assert digest(parameters_of(a)) == digest(parameters_of(b)) != digest(parameters_of(c))
    params = parameters_of(a)
    assert params["embedding.weight"].std() == pytest.approx(0.02, rel=0.03)
    assert params["blocks.3.ffn.down.weight"].std() == pytest.approx(0.02 / 4, rel=0.05)
    assert bool((params["norm.weight"] == 1).all())


def test_mpt_starts_kaiming_normal_with_small_residuals():
    wide = inner(name="mpt_causal_lm", d_model=64, n_layers=8, vocab_size=500)
    params = parameters_of(build_model(wide, 1))
    std = math.sqrt(2 / 64)
    assert params["embedding.weight"].std() == pytest.approx(std, rel=0.03)
    assert params["blocks.2.attention.qkv.weight"].std() == pytest.approx(std, rel=0.05)
    assert params["blocks.2.attention.out.weight"].std() == pytest.approx(std / 4, rel=0.05)
    assert params["blocks.2.ffn.down.weight"].std() == pytest.approx(std / 2 / 4, rel=0.05)
    assert not params["blocks.2.attention.qkv.bias"].any()


def test_no_buffer_would_be_sent(config):
    model = build_model(config, 0)
    assert set(model.state_dict()) == set(parameters_of(model))


def test_a_model_with_given_parameters_is_that_model_without_memory_of_its_own(config):
    model = stirred(config)
    params = parameters_of(model)
    tokens = torch.arange(12).view(2, 6)
    borrowed = model_with(config, params)
    torch.testing.assert_close(borrowed(tokens), model(tokens), rtol=0, atol=0)
    own = parameters_of(borrowed)
    assert list(own) == list(params)
    assert all(own[name].data_ptr() == value.data_ptr() for name, value in params.items())
    low = model_with(config, {name: value.bfloat16() for name, value in params.items()})
    assert {value.dtype for value in low.parameters()} == {torch.float32}
    with pytest.raises(RuntimeError, match="Missing key"):
        model_with(config, dict(list(params.items())[1:]))


def test_loading_parameters_copies():
    model = build_model(inner(), 3)
    params = {name: torch.full_like(v, 0.5) for name, v in parameters_of(model).items()}
    load_parameters(model, params)
    assert digest(parameters_of(model)) == digest(params)
    params["norm.weight"].zero_()
    assert bool((model.norm.weight == 0.5).all())


def test_a_cache_gives_the_logits_of_the_whole(config):
    """One token at a time, and a chunk after a prefix."""
    model = stirred(config)
    whole = model(TOKENS)
    for cuts in ([4, 5, 6, 7, 8, 9], [3, 7, 9], [9]):
        cache, parts, start = model.new_cache(), [], 0
        for end in cuts:
            parts.append(model(TOKENS[:, start:end], cache=cache))
            start = end
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_cached_text_is_the_uncached_text(config, temperature, monkeypatch):
    model = stirred(config)
    options = {"max_new_tokens": 20, "temperature": temperature, "seed": 5}
    cached = list(generate(model, [1, 2, 3], **options))
    monkeypatch.setattr(model, "new_cache", lambda: None)
    assert cached == list(generate(model, [1, 2, 3], **options))
    assert len(cached) == 20, "the window slides past the model's 12 positions"


def test_generation_is_seeded_stops_and_slides():
    model = build_model(inner(), 3)

    def text(**options):
        return list(generate(model, [1, 2], max_new_tokens=20, **options))

    assert text(seed=1) == text(seed=1) != text(seed=2)
    greedy = text(temperature=0)
    with torch.no_grad():
        assert greedy[0] == int(model(torch.tensor([[1, 2]]))[0, -1].argmax())
        window = torch.tensor([[1, 2, *greedy][7:19]])
        assert greedy[17] == int(model(window)[0, -1].argmax())
    assert text(temperature=0, stop=greedy[3])[:3] == greedy[: greedy.index(greedy[3])][:3]
    assert greedy[3] not in text(temperature=0, stop=greedy[3])


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 5e-324])
def test_what_is_almost_cold_is_the_likeliest_text(temperature):
    model = build_model(inner(), 3)
    cold, almost = (list(generate(model, [1, 2], max_new_tokens=9, temperature=given))
                    for given in (0, temperature))  # fmt: skip
    assert almost == cold


def test_every_family_is_in_reach_of_a_fused_kernel(config):
    """Also where a bias is added to the scores: else they would be kept for the backward pass."""
    model, cache = build_model(config, 0), build_model(config, 0).new_cache()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # or an error
        model(TOKENS, TOKENS).objective.backward()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(TOKENS, TOKENS)
        for part in TOKENS.split(4, dim=1):
            model(part, cache=cache)


def test_a_sequence_longer_than_the_positions_is_refused(config):
    with pytest.raises(DataError, match="13 tokens is longer than the 12 positions"):
        build_model(config, 0)(torch.zeros(1, 13, dtype=torch.int64))


def test_low_precision_norm_runs_in_the_precision_of_autocast():
    model = build_model(FAMILIES["mpt"], 0)
    x = torch.randn(1, 3, 16)
    assert model.norm(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.norm(x).dtype == torch.bfloat16


@pytest.mark.parametrize("attn_impl", ["flash", "torch"])
def test_bf16_logits_stay_near(config, attn_impl):
    model = stirred(config)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(TOKENS).float()
    with torch.no_grad():
        exact = model(TOKENS)
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_checkpointed_activations_give_the_same_gradient():
    plain = inner(name="mpt_causal_lm")
    fsdp = plain.sharding
    assert fsdp is not None
    lean = plain.model_copy(
        update={"sharding": fsdp.model_copy(update={"activation_checkpointing": True})}
    )
    gradients = []
    for config in (plain, lean):
        model = build_model(config, 1)
        model(TOKENS[:, :-1], TOKENS[:, 1:]).objective.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=0)


PRESETS = {
    "mpt-125m": 125_311_488,
    "mpt-350m": 355_985_408,
    "mpt-760m": 760_470_528,
    "mpt-1b": 1_315_950_592,
    "mpt-3b": 2_651_837_440,
    "mpt-7b": 6_658_859_008,
    "llama-30m": 29_963_136,
    "llama-125m": 123_636_480,
    "llama-350m": 359_908_352,
    "llama-1b": 1_046_956_032,
    "llama-3b": 3_212_749_824,
    "llama-8b": 8_030_261_248,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_parameters(name):
    family, size = name.split("-")
    config = load_config([f"llm_config={family}-{size.upper()}"]).inner
    assert model_cost(config).parameters == PRESETS[name]
    assert config.name == name
