"""Layers of the clients' own: what is scored, shown and exported was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import photon
from photon.cli.main import run
from photon.errors import ConfigError
from photon.evaluation.loss import evaluate_loss
from photon.model.build import build_model, load_parameters
from photon.run import checkpoint
from photon.run.run_data import RunData
from photon.run.run_folder import read_run
from photon.run.trackers import read_lines
from photon.scoring.evaluate import Wanted, evaluate

EMPTY = "icl_tasks_config=empty"


@pytest.fixture
def trained(smoke) -> Path:
    config = smoke(
        "run_uuid=p", "fl.personalized_layers=[embedding.weight]", "fl.eval_period=1",
        "llm_config.optimizer.lr=0.02", "llm_config.eval_subset_num_batches=-1",
    )  # fmt: skip
    return Path(photon.train(config).folder)


def own_model(folder: Path, client: int):
    """A client's model, put together by hand: everybody's parameters, and its own layers on top."""
    config = read_run(folder)[0]
    state = checkpoint.load_server_state(checkpoint.newest_checkpoint(folder / "checkpoints"))
    kept = folder / "clients" / f"client_{client}" / f"round_{state.round:06d}.json"
    model = build_model(config.inner, 0)
    load_parameters(model, {**state.params, **checkpoint.load_client_state(kept).layers})
    return model


def loss_of(model, folder: Path, part: str) -> float:
    config = read_run(folder)[0]
    rows = RunData.of(config.data, config.inner, config.seed).rows(part)
    return evaluate_loss(model, rows, batch_size=4).loss


def test_losses_are_those_of_the_clients_models(trained):
    by_hand = [loss_of(own_model(trained, client), trained, "validation") for client in (0, 1)]
    assert by_hand[0] != by_hand[1]
    last = read_lines(trained / "metrics.jsonl")[-1]
    assert last["val_loss"] == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert last["val_clients"] == 2
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["federated"]["val_loss"] == last["val_loss"]
    (found,) = evaluate([trained], [EMPTY], wanted=Wanted(per_client=True))
    assert not found.failures
    assert found.losses["validation"].loss == pytest.approx(sum(by_hand) / 2, rel=1e-5)
    assert found.losses["validation"].of_clients == 2
    for client in (0, 1):
        part = f"client_{client}/validation"
        expected = loss_of(own_model(trained, client), trained, part)
        assert found.losses[part].loss == pytest.approx(expected, rel=1e-5)
    (one,) = evaluate([trained], [EMPTY], wanted=Wanted(client=1))
    assert one.losses["validation"].loss == pytest.approx(by_hand[1], rel=1e-5)
    assert one.folder != found.folder


def test_one_model_is_one_clients(trained, tmp_path, capsys):
    out = tmp_path / "hf"
    for command in (["export", trained, out], ["generate", trained, "def "]):
        assert run([str(part) for part in command]) == 2
        assert "--client N" in capsys.readouterr().err
    assert not out.exists()
    assert run(["export", str(trained), str(out), "--client", "7"]) == 2
    assert "those that have: 0, 1" in capsys.readouterr().err
    assert run(["export", str(trained), str(out), "--client", "1"]) == 0
    exported = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    assert exported.equal(own_model(trained, 1).embedding.weight)
    assert "client 1's own: embedding.weight" in (out / "README.md").read_text()
    assert run(["generate", str(trained), "def ", "--client", "1", "--max-new-tokens", "2"]) == 0
    assert run(["evaluate", str(trained), "icl_tasks_config=tasks_v0.3"]) == 2
    assert "score tasks with --client N" in capsys.readouterr().err


def test_layers_that_stayed_on_their_node_are_named(trained, capsys):
    """As on a server whose nodes are elsewhere."""
    (trained / "clients").rename(trained / "gone")
    assert run(["generate", str(trained), "def ", "--client", "0"]) == 2
    assert "stay on the node that trains it" in capsys.readouterr().err
    (found,) = evaluate([trained], [EMPTY])
    assert "client 0 keeps" in found.failures["validation"]


def test_a_run_in_which_nobody_has_the_model_scores_no_tasks(smoke, tmp_path):
    config = smoke("fl.personalized_layers=[embedding.weight]", "icl_tasks_config=tasks_v0.3")
    with pytest.raises(ConfigError, match="score the tasks afterwards"):
        photon.train(config)
    assert not (tmp_path / "runs").exists()


def test_a_run_without_them_takes_no_client(smoke, capsys):
    folder = photon.train(smoke("run_uuid=plain", "fl.n_rounds=1")).folder
    assert run(["generate", str(folder), "def ", "--client", "0"]) == 2
    assert "leave the option out" in capsys.readouterr().err
