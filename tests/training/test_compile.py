"""torch.compile changes the speed and not the gradient."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch

from photon.config import load_config
from photon.config.resolve import resolve
from photon.errors import ConfigError
from photon.training.gradient import accumulate_gradient
from photon.training.parallel import ALONE, World, build_parallel

CHECK = """
import torch
from photon.config import load_config
from photon.config.resolve import resolve
from photon.training.gradient import accumulate_gradient
from photon.training.parallel import ALONE, build_parallel

config = resolve(load_config(["recipe=smoke", "llm_config.z_loss=0.001"]), cores=1,
                 accelerator=False, run_uuid="t").inner
rows = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(0))
gradients = []
for compiled in (False, True):
    config = config.model_copy(update={"compile": compiled})
    parallel = build_parallel(config, 0, torch.device("cpu"), ALONE)
    accumulate_gradient(parallel, rows, microbatch=2)
    gradients.append({n: p.grad for n, p in parallel.model.named_parameters()})
for name, value in gradients[0].items():
    torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-7)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile on a CPU needs a compiler")
def test_a_compiled_step_has_the_gradient_of_a_plain_one():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHECK], capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(name="traced")
def _traced(monkeypatch):
    """torch.compile without a code generator: what is tested is the graph."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()


def gradients(keys: list[str], rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Summed loss, and the gradient of a step in microbatches of two rows."""
    config = load_config(["recipe=smoke", "llm_config.z_loss=0.001", *keys])
    inner = resolve(config, cores=1, accelerator=False, run_uuid="t").inner
    parallel = build_parallel(inner, 0, torch.device("cpu"), ALONE)
    loss = accumulate_gradient(parallel, rows, microbatch=2, precision=inner.precision)
    return loss, {n: p.grad for n, p in parallel.model.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by the tracer itself
@pytest.mark.parametrize("keys", [
    ["llm_config.model.name=llama", "llm_config.max_logits_bytes=40000"],
    ["llm_config.model.name=mpt_causal_lm", "llm_config.precision=amp_bf16"],
    ["llm_config.fsdp_config.activation_checkpointing=true"],
], ids=str)  # fmt: skip
def test_a_whole_model_is_one_graph_with_the_same_gradient(keys, traced):
    rows = torch.randint(0, 300, (4, 33), generator=torch.Generator().manual_seed(0))
    expected, plain = gradients([*keys, "llm_config.compile=false"], rows)
    assert not traced
    loss, compiled = gradients([*keys, "llm_config.compile=whole"], rows)
    assert traced["unique_graphs"] == 1
    torch.testing.assert_close(loss, expected)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-6)


def test_a_sharded_model_is_not_compiled_as_a_whole():
    config = load_config(["recipe=smoke", "llm_config.compile=whole"])
    inner = resolve(config, cores=1, accelerator=False, run_uuid="t").inner
    with pytest.raises(ConfigError, match=r"compile=whole: a sharded model .*compile=true"):
        build_parallel(inner, 0, torch.device("cpu"), World(rank=0, size=2))
