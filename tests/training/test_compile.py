"""torch.compile changes the speed and not the gradient."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

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
