"""What an evaluation runs on, and what is of lm-eval's tasks: by keys, however they are written."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from photon.config import load_config
from photon.errors import ConfigError, DeviceError
from photon.scoring import evaluate, harness

FOUND = {
    "results": {"say": {"acc,none": 0.5}},
    "n-samples": {"say": {"effective": 2}},
    "samples": {"say": [{"doc_id": 0, "resps": [[(-1.5, True)]]}, {"doc_id": 1, "resps": []}]},
}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Of each opened model the device, and the threads; lm-eval is one that says `FOUND`."""
    seen = []

    def open_candidate(path, overrides, device, client):
        seen.append((device.type, torch.get_num_threads()))
        return SimpleNamespace(
            config=load_config(), results=tmp_path / "found", model=SimpleNamespace(max_seq_len=9),
            require_one_model=lambda: None, max_batch_tokens=9, encoder=None, name="r", facts={},
        )  # fmt: skip

    found = SimpleNamespace(simple_evaluate=lambda **_: FOUND, __version__="0")
    manager = SimpleNamespace(TaskManager=lambda **_: SimpleNamespace(all_tasks=["say"]))
    adapter = SimpleNamespace(PhotonLM=lambda *_: None)
    stand_ins = {"lm_eval": found, "lm_eval.tasks": manager, "photon.scoring.lm_adapter": adapter}
    for name, one in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(vars(one))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(harness, "require_package", lambda *_: None)
    for module in (harness, evaluate):
        monkeypatch.setattr(module, "open_candidate", open_candidate)
        monkeypatch.setattr(module, "require_model", lambda _: None)
    monkeypatch.setattr(evaluate, "_Run", lambda *_: lambda: None)
    return seen


def by_ours(path, *overrides):
    return evaluate.evaluate([path], overrides)


def by_harness(path, *overrides):
    return harness.evaluate_by_harness(path, ["say"], overrides)


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize("score", [by_ours, by_harness])
def test_device_and_threads_are_those_that_are_given(opened, tmp_path, score, sign):
    score(tmp_path, f"{sign}photon.threads=3", f"{sign}photon.device=cpu")
    assert opened == [("cpu", 3)]
    with pytest.raises(DeviceError, match=r"photon.device=bogus: not a device"):
        score(tmp_path, f"{sign}photon.device=bogus")


@pytest.mark.parametrize("score", [by_ours, by_harness])
def test_a_device_that_is_none_is_named(opened, tmp_path, score):
    with pytest.raises(ConfigError, match=r"^photon.device: .* got null$"):
        score(tmp_path, "photon.device=null")


@pytest.mark.parametrize(
    "text",
    ["icl_tasks_config=light", "++icl_tasks_config=mine.yaml", "icl_tasks_config.root_dir=x",
     "eval_gauntlet_config=eval_gauntlet_v0.3"],
)  # fmt: skip
def test_task_lists_beside_those_of_lm_eval_are_refused(opened, tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        by_harness(tmp_path, text)
    assert str(caught.value).startswith(f"{text}: is not for --harness")
    by_harness(tmp_path, "icl_tasks_config.limit=5", "eval_gauntlet_config.destination_dir=x")


def test_samples_of_lm_eval_are_written(opened, tmp_path):
    by_harness(tmp_path)
    lines = (tmp_path / "found" / "lm_eval.samples.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"task": "say", "doc_id": 0, "resps": [[[-1.5, True]]]},
        {"task": "say", "doc_id": 1, "resps": []},
    ]
