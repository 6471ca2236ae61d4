"""Inner optimizers against trajectories computed by hand, element by element in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from photon.config import load_config
from photon.config.llm import OptimizerConfig
from photon.config.resolve import resolve
from photon.model.build import build_model
from photon.training.adopt import Adopt
from photon.training.muon import Muon
from photon.training.optim import InnerOptimizer, first_moments

STEPS = 7
BETAS = (0.9, 0.99)


class Toy(nn.Module):
    """A matrix and a vector, and the gradients that they are given."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.vector = nn.Parameter(torch.randn(5, generator=generator))
        self.gradients = [
            {n: torch.randn(p.shape, generator=generator) * 3 for n, p in self.named_parameters()}
            for _ in range(STEPS)
        ]


def rates() -> list[float]:
    return [0.1 * (step + 1) / STEPS for step in range(STEPS)]


def trained(config: OptimizerConfig, split: int | None = None) -> dict[str, torch.Tensor]:
    """Parameters after STEPS updates; with `split` the moments move to a second optimizer there."""
    toy = Toy()
    optimizer = InnerOptimizer(toy, config)
    for step, lr in enumerate(rates()):
        if step == split:
            moments, optimizer = optimizer.moments(), InnerOptimizer(toy, config)
            optimizer.load(moments, step)
        for name, p in toy.named_parameters():
            p.grad = toy.gradients[step][name].clone()
        optimizer.step(lr)
    return {n: p.detach() for n, p in toy.named_parameters()}


def by_hand(rule, decay: float) -> dict[str, torch.Tensor]:
    """Apply `rule(weight, gradients so far, lr, decay, memory)` to every element by itself."""
    toy = Toy()
    result = {}
    for name, p in toy.named_parameters():
        flat = p.detach().double().flatten().tolist()
        streams = [g[name].double().flatten().tolist() for g in toy.gradients]
        for index in range(len(flat)):
            memory: dict[str, float] = {}
            for step, lr in enumerate(rates()):
                own = decay if p.dim() >= 2 else 0.0
                flat[index] = rule(flat[index], streams[step][index], step, lr, own, memory)
        result[name] = torch.tensor(flat).view(p.shape)
    return result


def adamw_rule(w, g, step, lr, decay, memory):
    b1, b2 = BETAS
    memory["m"] = b1 * memory.get("m", 0.0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0.0) + (1 - b2) * g * g
    m_hat = memory["m"] / (1 - b1 ** (step + 1))
    v_hat = memory["v"] / (1 - b2 ** (step + 1))
    return w - lr * decay * w - lr * m_hat / (math.sqrt(v_hat) + 1e-8)


def decoupled_rule(w, g, step, lr, decay, memory):
    """The decay follows the schedule but not the peak: lr / peak times the decay."""
    return adamw_rule(w, g, step, lr, 0.0, memory) - lr / 0.1 * decay * w


def adopt_rule(w, g, step, lr, decay, memory):
    b1, b2 = BETAS
    if step == 0:
        memory["m"], memory["v"] = 0.0, g * g
        return w
    clip = step**0.25
    n = max(-clip, min(clip, g / max(math.sqrt(memory["v"]), 1e-8)))
    memory["m"] += (1 - b1) * (n - memory["m"])
    memory["v"] = b2 * memory["v"] + (1 - b2) * g * g
    return w - lr * decay * w - lr * memory["m"]


RULES = {"adamw": adamw_rule, "decoupled_adamw": decoupled_rule, "adopt": adopt_rule}


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("name", RULES)
def test_trajectories_are_the_formulas(name, decay):
    config = OptimizerConfig(name=name, lr=0.1, betas=BETAS, eps=1e-8, weight_decay=decay)
    ours, expected = trained(config), by_hand(RULES[name], decay)
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The quintic of Muon applied to the singular values, in float64."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_is_the_polynomial_of_the_singular_values(shape):
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator))
    expected, momentum = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    optimizer = Muon([weight], lr=0.1, weight_decay=0.05, momentum=0.9)
    for _ in range(4):
        weight.grad = torch.randn(shape, generator=generator)
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * weight.grad.double()
        update = orthogonal(0.1 * weight.grad.double() + 0.9 * momentum)
        expected = expected * (1 - 0.1 * 0.05) - 0.1 * 0.2 * max(shape) ** 0.5 * update
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-5)


def test_muon_is_torchs_to_the_rounding_of_bf16():
    """torch multiplies in bf16 on every device; the mean difference is that of its rounding."""
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(32, 48, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    numbers = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.9}
    optimizers = (
        Muon([ours], **numbers),
        torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **numbers),
    )
    start = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn(32, 48, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.02 * (ours - start).norm()


@pytest.mark.parametrize("name", ["adamw", "decoupled_adamw", "adopt", "muon", "sgd"])
@pytest.mark.parametrize("split", [1, 4])
def test_moments_can_move_to_another_optimizer(name, split):
    config = OptimizerConfig(name=name, lr=0.1, betas=BETAS, weight_decay=0.05)
    whole, moved = trained(config), trained(config, split=split)
    for key, value in whole.items():
        assert torch.equal(moved[key], value)


def test_adopt_clips_what_is_normed():
    """A gradient a hundred times the last one moves the weight by the clip, not by a hundred."""
    weight = nn.Parameter(torch.zeros(1))
    adopt = Adopt([weight], lr=1.0, betas=(0.0, 0.99))
    for gradient, expected in ((1.0, 0.0), (100.0, -1.0), (1e6, -1.0 - 2**0.25)):
        weight.grad = torch.tensor([gradient])
        adopt.step()
        assert float(weight.detach()) == pytest.approx(expected)


def test_parameters_without_a_gradient_stay():
    toy = Toy()
    before = toy.vector.detach().clone()
    optimizer = InnerOptimizer(toy, OptimizerConfig(name="adopt"))
    for _ in range(2):
        toy.matrix.grad = torch.ones_like(toy.matrix)
        optimizer.step(0.1)
    assert torch.equal(toy.vector, before)


def test_muon_leaves_embeddings_and_an_untied_head_to_adamw():
    from photon.config.llm import Inner
    from photon.config.model import ModelConfig
    from photon.model.build import build_model

    for shape in ({"name": "mpt_causal_lm"}, {"tie_word_embeddings": False}):
        model = build_model(Inner(model=ModelConfig(**shape, vocab_size=50, n_layers=1)), 0)
        moments = InnerOptimizer(model, OptimizerConfig(name="muon")).moments()
        tables = {n for n in moments["exp_avg"] if n.endswith("weight") and "norm" not in n}
        assert tables == {"embedding.weight", "positions.weight", "head.weight"} & set(
            dict(model.named_parameters())
        )
        assert all(n.startswith("blocks.") for n in moments["momentum_buffer"])


@pytest.mark.parametrize("width", [16, 24, 48])
def test_a_layer_as_wide_as_the_vocabulary_is_no_output_layer(width):
    from photon.config.llm import Inner
    from photon.config.model import ModelConfig
    from photon.model.build import empty_model
    from photon.model.flops import embedding_names, model_cost

    shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "ffn_hidden_size": 24}

    def of(vocabulary: int, **more) -> Inner:
        return Inner(model=ModelConfig(**shape, vocab_size=vocabulary, **more))

    for more, tables in (({}, 1), ({"tie_word_embeddings": False}, 2)):
        model = empty_model(of(width, **more))
        assert len(embedding_names(model)) == tables
        cost, other = (model_cost(of(size, **more)) for size in (width, width + 1))
        assert cost.hidden_matrices == other.hidden_matrices
        assert cost.embeddings == tables * 16 * width


def test_the_output_layer_of_a_model_of_transformers_is_known_by_itself(tmp_path):
    import transformers

    from photon.model.build import empty_model
    from photon.model.causal_lm import read_config
    from photon.model.flops import embedding_names

    transformers.GPTNeoXConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=48,
        intermediate_size=48, max_position_embeddings=32,
    ).save_pretrained(tmp_path)  # fmt: skip
    given = ["llm_config.model.name=hf_causal_lm", "llm_config.max_seq_len=32",
             f"llm_config.model.pretrained_model_name_or_path={tmp_path}"]  # fmt: skip
    inner = load_config(given).inner
    model = empty_model(inner.but(model=read_config(inner.model)))
    matrices = {n for n, p in model.named_parameters() if p.dim() == 2}
    assert embedding_names(model) == {name for name in matrices if ".layers." not in name}
    assert len(embedding_names(model)) == 2


@pytest.mark.parametrize(
    ("name", "betas", "eps"),
    [("adopt", (0.9, 0.9999), 1e-6), ("adamw", (0.9, 0.95), 1e-8), ("muon", (0.9, 0.95), 1e-8),
     ("decoupled_adamw", (0.9, 0.95), 1e-8)],
)  # fmt: skip
def test_each_optimizer_has_its_own_defaults_and_what_is_given_counts(name, betas, eps):
    """ADOPT's are those of its authors (Taniguchi et al. 2024, algorithm 2)."""
    key = "llm_config.optimizer."
    for given, expected in ([], (betas, eps)), ([f"{key}eps=1e-5"], (betas, 1e-5)), (
        [f"{key}betas=[0.5,0.6]"], ((0.5, 0.6), eps),
    ):  # fmt: skip
        config = load_config(["recipe=smoke", f"{key}name={name}", *given])
        part = InnerOptimizer(build_model(config.inner, 0), config.inner.optimizer)
        group = part._parts[-1].param_groups[0]
        assert (group["betas"], group["eps"]) == expected
        written = resolve(config, cores=1, accelerator=0, run_uuid="r").inner.optimizer
        assert (written.betas, written.eps) == expected, "the run folder says what was used"


@pytest.mark.parametrize("name", ["adamw", "decoupled_adamw", "adopt", "muon", "sgd"])
def test_first_moments_are_those_of_the_optimizer(name):
    inner = load_config(["recipe=smoke", f"llm_config.optimizer.name={name}"]).inner
    model = build_model(inner, 0)
    model.embedding.weight.requires_grad_(False)
    ours, theirs = (
        {key: {n: (t.shape, t.dtype, t.any().item()) for n, t in tree.items()}
         for key, tree in trees.items()}
        for trees in (first_moments(model, inner.optimizer),
                      InnerOptimizer(model, inner.optimizer).moments())
    )  # fmt: skip
    assert ours == theirs
    assert [list(tree) for tree in ours.values()] == [list(tree) for tree in theirs.values()]
