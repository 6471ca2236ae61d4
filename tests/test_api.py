"""Photon from Python: forms of overrides, the history, progress in a notebook."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

import photon
from photon.config import load_config
from photon.errors import ConfigError, PhotonNote, RunFolderError
from photon.experiment import experiment
from photon.report import console
from photon.run import kinds
from photon.run.results import TrainResult


@pytest.mark.parametrize(
    "given",
    [
        {"recipe": "smoke", "fl.n_rounds": 5, "llm_config.local_steps": "7ba"},
        {"recipe": "smoke", "fl": {"n_rounds": 5}, "llm_config": {"local_steps": 7}},
    ],
    ids=["by key", "nested"],
)
def test_a_dict_says_what_the_strings_say(given):
    assert load_config(given) == load_config(
        ["recipe=smoke", "fl.n_rounds=5", "llm_config.local_steps=7ba"]
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_uuid", "1e5"),
        ("run_uuid", "true"),
        ("photon.saving_path", 'a "quoted" one, with [brackets]: and \\'),
        ("photon.saving_path", "Föhn/päth"),
        ("photon.saving_path", '"a" or "b"'),
        ("llm_config.optimizer.lr", 1e-05),
        ("llm_config.optimizer.lr", np.float64(1e-05)),
        ("llm_config.optimizer.lr", np.float32(0.5)),
        ("fl.frozen_layers", np.array(["a.b", "c*"])),
        ("fl.n_rounds", np.int64(3)),
        ("fl.n_rounds", torch.tensor(3)),
        ("use_wandb", np.True_),
        ("fl.frozen_layers", ["a.b", "c*"]),
        ("use_wandb", True),
        ("llm_config.eval_interval", None),
    ],
)
def test_values_arrive_as_they_are(key, value):
    found = load_config({key: value}).model_dump()
    for part in key.split("."):
        found = found[part]
    assert found == (value.tolist() if hasattr(value, "tolist") else value)


def test_a_text_that_begins_and_ends_with_a_quotation_mark_is_that_text():
    assert load_config(['photon.saving_path="a" or "b"']).machine.runs_folder == '"a" or "b"'
    assert load_config(['photon.saving_path="a \\"b\\""']).machine.runs_folder == 'a "b"'
    assert load_config(["photon.saving_path='a b'"]).machine.runs_folder == "a b"


def test_one_string_is_one_override():
    assert load_config("recipe=smoke") == load_config(["recipe=smoke"])


@pytest.mark.parametrize("text", ["it's a=b", "a x=3", "a, b = c", "'a seed=3'"])
def test_one_string_may_have_blanks_and_equals_signs(text):
    found = load_config(f"photon.saving_path={text}").machine.runs_folder
    assert found == text.strip("'")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("recipe=smoke fl.n_rounds=2", r"a list: \['recipe=smoke', 'fl.n_rounds=2'\]"),
        ("run_uuid=a ++seed=2", r"a list: \['run_uuid=a', '\+\+seed=2'\]"),
        ("run_uuid=it's seed=2", r"a list: \[\"run_uuid=it's\", 'seed=2'\]"),
        ("smoke", "write key=value"),
        ([("fl.n_rounds", 2)], "is no override; give 'key=value' strings, or a dict"),
        (4, "4 is no override"),
        ({"fl.n_rounds": object()}, "is no value of a key"),
        ({"fl.n_rounds": 1, "fl": {"n_rounds": 2}}, "^fl.n_rounds: is there twice, as 1 and as 2"),
        ({"fl": {"n_roundz": 2}}, "did you mean 'fl.n_rounds'"),
        ({"llm_config": None}, "^llm_config=null: names no preset of llm_config; `photon config "),
        ("recipe=3", "^recipe=3: names no preset of recipe; "),
        ("recipe=smoke,quickstart", "^recipe=smoke,quickstart: names no preset of recipe; "),
    ],
)
def test_what_is_no_override_is_told_what_to_write(given, message):
    with pytest.raises(ConfigError, match=message):
        photon.train(given)


def test_what_is_no_run_is_told_what_to_give():
    with pytest.raises(ConfigError, match=r"^5 is no run; give its folder, or its name in runs$"):
        photon.resume(5)  # pyright: ignore[reportArgumentType]
    result = TrainResult(run="r", folder=Path("runs/r"), parameters=1, rounds=1, unigram=None)
    with pytest.raises(ConfigError, match=r"^TrainResult\(.{1,20}\) is no run; give its folder"):
        photon.resume(result)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunFolderError, match="no run here"):
        photon.resume("a" * 5000)  # a name that no file can have


def test_runs_that_begin_in_one_second_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(kinds.time, "strftime", lambda shape: shape)
    assert len({kinds.new_name("federated") for _ in range(20)}) > 10


@pytest.fixture
def given(data_root, tmp_path) -> dict:
    return {"recipe": "smoke", "run_uuid": "r", "dataset.train.root_local": data_root,
            "photon.saving_path": tmp_path}  # fmt: skip


def test_the_result_has_a_folder_and_the_history(given, tmp_path, monkeypatch, capfd):
    first = photon.train(given)
    assert first.folder == tmp_path / "r"
    result = photon.resume(str(first.folder), "fl.n_rounds=3")
    lines = (result.folder / "metrics.jsonl").read_text().splitlines()
    assert result.history == [json.loads(line) for line in lines]
    assert [record["round"] for record in result.history] == [1, 2, 3]
    assert capfd.readouterr() == ("", "")
    rows: list[dict] = []
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=rows.extend))
    result.history.to_pandas()
    assert (
        rows[2]["client_metrics/1/train_loss"]
        == (result.history[2]["client_metrics"]["1"]["train_loss"])
    )
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.history.to_pandas()


def test_a_notebook_shows_plain_lines_among_its_output(given, monkeypatch, capfd):
    kernel = SimpleNamespace(IPKernelApp=SimpleNamespace(initialized=lambda: True))
    assert not console.in_notebook()
    monkeypatch.setitem(sys.modules, "ipykernel.kernelapp", kernel)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    photon.train(given)
    out, err = capfd.readouterr()
    assert err == ""
    assert out.replace("\n", "").isprintable()
    assert [line[:11] for line in out.splitlines()[1:]] == ["round   1/2", "round   2/2"]
    assert "run folder" in out.splitlines()[0]


def test_a_script_asks_for_progress(given, capfd):
    photon.train(given, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\nround") == 2
    assert Path(given["photon.saving_path"], "r").is_dir()


def test_threads_compose_at_the_same_time():
    """Hydra has one state for all of a process."""

    def rounds(number: int) -> int:
        return load_config([f"fl.n_rounds={number}"]).federation.rounds

    numbers = [*range(2, 10)] * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(rounds, numbers)) == numbers


def test_an_application_of_hydra_keeps_its_own():
    """It has been initialized before, and its configuration may be called as Photon's would be."""
    ConfigStore.instance().store(name="base", node={"of": "somebody else"})
    with initialize_config_module("photon.config.groups", version_base="1.3"):
        own = GlobalHydra.instance().hydra
        assert load_config(["fl.n_rounds=3"]).federation.rounds == 3
        assert GlobalHydra.instance().hydra is own
        assert compose("base") == {"of": "somebody else"}
    assert not GlobalHydra.instance().is_initialized()


def test_a_note_points_to_the_line_that_called(monkeypatch):
    """It pointed to a line of Photon's own, which says nothing to whoever has to mend theirs."""
    monkeypatch.setattr(experiment, "train", lambda config, **_: None)
    with pytest.warns(PhotonNote) as found:
        photon.train(["photon.comm_stack.shm=True", "llm_config.max_duration=40ba"])
    line = sys._getframe().f_lineno - 1
    assert [(one.filename, one.lineno) for one in found] == [(__file__, line)] * 2
