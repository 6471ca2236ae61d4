"""First moments beside second moments of another origin."""

from __future__ import annotations

import pytest
import torch

from photon.config import load_config
from photon.core.codec import decode, encode
from photon.points import codec
from photon.training.reach import matched

BETAS = (0.9, 0.95)


def optimizer(name: str = "adamw"):
    keys = [f"llm_config.optimizer.name={name}", "llm_config.optimizer.betas=[0.9,0.95]"]
    return load_config(["recipe=smoke", *keys]).inner.optimizer


def own(gradients: list[torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Adam's moments after these gradients, by their definition."""
    first, second = torch.zeros(3), torch.zeros(3)
    for gradient in gradients:
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
    return {"exp_avg": {"w": first}, "exp_avg_sq": {"w": second}}


def test_a_client_that_has_seen_nothing_of_a_token_does_not_step_there():
    """Half of another client's first moment, beside a second moment of zero."""
    here, there = own([torch.tensor([0.0, 0.1, 0.1])] * 3), own([torch.tensor([4.0, 0.1, 0.1])] * 3)
    mean = (here["exp_avg"]["w"] + there["exp_avg"]["w"]) / 2
    found = matched({**here, "exp_avg": {"w": mean.bfloat16()}}, optimizer(), 3)
    assert found["exp_avg"]["w"].tolist() == pytest.approx([0.0, *mean[1:].tolist()], rel=4e-3)
    assert found["exp_avg_sq"] is here["exp_avg_sq"]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_limit_is_a_gradient_that_stays_the_same(sign):
    steady = own([torch.full((3,), sign * 0.3)] * 4)
    larger = {"exp_avg": {"w": 5 * steady["exp_avg"]["w"]}, "exp_avg_sq": steady["exp_avg_sq"]}
    for given in (steady, larger):
        found = matched(given, optimizer(), 4)["exp_avg"]["w"]
        torch.testing.assert_close(found, steady["exp_avg"]["w"])


def test_what_has_no_such_pair_stays():
    moments = own([torch.ones(3)])
    assert matched(moments, optimizer("adopt"), 1) is moments
    assert matched(moments, optimizer(), 0) is moments
    assert matched({"exp_avg": moments["exp_avg"]}, optimizer(), 1) == {
        "exp_avg": moments["exp_avg"]
    }


@pytest.mark.parametrize("name", ["int4", "int2"])
def test_a_codec_makes_no_step_without_bound(name):
    """Of one number a thousand times the others, of the same block: as read, they are as large as
    half a level, and the roots of their second moments are not.
    """
    steady = own([torch.tensor([1.0, 1e-3, 1e-6])] * 4)
    coder = codec(name)
    forms = {"exp_avg": coder, "exp_avg_sq": coder.squares}
    read = {n: decode(encode(tree, forms[n])[0], tree, forms[n]) for n, tree in steady.items()}
    found = {"read": read, "matched": matched(read, optimizer(), 4)}
    steps = {
        which: moments["exp_avg"]["w"] / moments["exp_avg_sq"]["w"].sqrt()
        for which, moments in found.items()
    }
    honest = float((steady["exp_avg"]["w"] / steady["exp_avg_sq"]["w"].sqrt()).max())
    assert float(steps["read"].max()) > 1.3 * honest
    assert float(steps["matched"].max()) <= honest * (1 + 1e-6)
