"""The average of the rounds: what is validated and given out, and what nobody trains from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import photon
from photon.config import load_config
from photon.container.container import digest
from photon.core.messages import Update
from photon.errors import MismatchedCheckpoint, PhotonWarning
from photon.evaluation.loss import held_out_loss
from photon.hub.model_card import model_card
from photon.model.build import model_with
from photon.node import engine
from photon.run import artifact, checkpoint
from photon.run.run_data import VALIDATION, RunData
from photon.run.run_folder import read_run
from photon.run.saved_model import load_saved_model
from photon.run.trackers import read_lines
from photon.server.pace import moved

DECAY = 0.6
KEYS = ("fl.n_rounds=4", "fl.eval_period=1", "llm_config.save_num_checkpoints_to_keep=9")
AVERAGED = (*KEYS, f"fl.ema_decay={DECAY}", "run_uuid=averaged")


def trained(run: Path) -> list[dict[str, Tensor]]:
    """The parameters after each round."""
    found = checkpoint.list_checkpoints(run / "checkpoints")[1:]
    return [checkpoint.load_parameters(path) for path in found]


def given_out(run: Path) -> list[dict[str, Tensor]]:
    """What should be: the mean of all rounds, once there are more than the decay remembers it."""
    averages: list[dict[str, Tensor]] = []
    for number, params in enumerate(trained(run), start=1):
        kept = min(DECAY, 1 - 1 / number)
        before = averages[-1] if averages else params
        averages.append({n: kept * before[n] + (1 - kept) * v for n, v in params.items()})
    return averages


@pytest.fixture(scope="module")
def run(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ema")
    place = [f"dataset.train.root_local={data_root}", f"photon.saving_path={home}"]
    return Path(photon.train(["recipe=smoke", *place, *AVERAGED]).folder)


def test_a_checkpoint_gives_out_the_average_of_its_rounds(run):
    for path, expected in zip(
        checkpoint.list_checkpoints(run / "checkpoints")[1:], given_out(run), strict=True
    ):
        for found in (checkpoint.load_model(path), load_saved_model(path).params):
            torch.testing.assert_close(found, expected)
    assert not torch.equal(found["embedding.weight"], trained(run)[-1]["embedding.weight"])


def test_the_average_is_what_is_validated(run):
    config, _ = read_run(run)
    inner, rows = config.inner, RunData.of(*config.reading).rows(VALIDATION)
    for record, params in zip(read_lines(run / "metrics.jsonl"), given_out(run), strict=True):
        model = model_with(inner, params, torch.device("cpu"))
        expected = held_out_loss(model, rows, inner).loss
        assert record["val_loss"] == pytest.approx(expected, abs=1e-5)
        last = held_out_loss(model_with(inner, trained(run)[-1], torch.device("cpu")), rows, inner)
        assert abs(last.loss - record["val_loss"]) > 1e-4


def test_nobody_trains_from_it(run, smoke):
    plain = photon.train(smoke(*KEYS, "run_uuid=plain"))
    assert [digest(p) for p in trained(Path(plain.folder))] == [digest(p) for p in trained(run)]
    newest = checkpoint.newest_checkpoint(Path(plain.folder) / "checkpoints")
    assert digest(checkpoint.load_model(newest)) == digest(checkpoint.load_parameters(newest))


def test_each_fragment_has_an_average_of_its_own_rounds(smoke):
    """The first parameters, which are noise, are not in it once all fragments have had a turn."""
    keys = (*AVERAGED, "run_uuid=fragments", "fl.fragments=2", "fl.n_rounds=2")
    folder = Path(photon.train(smoke(*keys)).folder)
    newest = checkpoint.newest_checkpoint(folder / "checkpoints")
    assert digest(checkpoint.load_model(newest)) == digest(checkpoint.load_parameters(newest))


def test_the_average_of_a_fragment_is_as_long_in_rounds(smoke):
    """Of two, each has every other round: two of them pass between two of its turns."""
    keys = (*AVERAGED, "run_uuid=as_long", "fl.fragments=2", "fl.compression=fp32")
    folder = Path(photon.train(smoke(*keys)).folder)
    average = checkpoint.load_model(checkpoint.newest_checkpoint(folder / "checkpoints"))
    _, second, third, fourth = trained(folder)
    of_first = [name for name in third if not torch.equal(second[name], third[name])]
    kept = DECAY**2  # in its second turn, where 1/2 is the most
    for name in fourth:
        before, after = (second, third) if name in of_first else (second, fourth)
        expected = kept * before[name] + (1 - kept) * after[name]
        torch.testing.assert_close(average[name], expected)


@pytest.mark.parametrize(("skipped", "keys"), [
    ((1,), ("fl.n_rounds=2",)), ((1, 3), ("fl.n_rounds=5", "fl.fragments=2")),
])  # fmt: skip
def test_it_begins_with_the_first_round_that_is_not_skipped(smoke, monkeypatch, skipped, keys):
    """Else half of it, or of a fragment that had no turn yet, would be the first parameters."""
    load = engine.load_update

    def spoilt(path: Path) -> Update:
        update = load(path)
        nan = {name: value * torch.nan for name, value in update.gradient.items()}
        return replace(update, gradient=nan) if update.round in skipped else update

    monkeypatch.setattr(engine, "load_update", spoilt)
    keys = (*keys, "run_uuid=skipped", "fl.failed_rounds=skip", "fl.compression=fp32")
    with pytest.warns(PhotonWarning, match=r"round 1: 0 of"):
        folder = Path(photon.train(smoke(*AVERAGED, *keys)).folder)
    average = checkpoint.load_model(checkpoint.newest_checkpoint(folder / "checkpoints"))
    before, after = trained(folder)[-2:]
    merged = [name for name in after if not torch.equal(before[name], after[name])]
    assert merged
    assert digest({n: average[n] for n in merged}) == digest({n: after[n] for n in merged})


@pytest.mark.parametrize(("before", "counted"), [(None, (3, 2)), (4, (2, 2)), ([7, 4], (7, 4))])
def test_a_count_of_before_is_that_of_all_fragments(run, tmp_path, before, counted):
    """Of round 5 of a run of two fragments: how often each of them has moved."""
    path = checkpoint.list_checkpoints(shutil.copytree(run / "checkpoints", tmp_path / "kept"))[-1]
    manifest = json.loads(path.read_text())
    manifest["facts"]["state"]["moved"] = before
    path.write_text(json.dumps(manifest | {"check": artifact._check(manifest)}))
    state = replace(checkpoint.load_server_state(path), round=5)
    config: Any = load_config(["recipe=smoke", "fl.fragments=2"])
    assert moved(config, state) == counted


def test_it_goes_on_where_it_was(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    photon.resume(copy, ["photon.resume_round=2"])
    found, expected = load_saved_model(copy), load_saved_model(run)
    assert digest(found.params) == digest(expected.params)
    with pytest.raises(MismatchedCheckpoint, match=r"fl\.ema_decay"):
        photon.resume(copy, ["fl.ema_decay=null", "fl.n_rounds=5"])


def test_another_run_begins_with_the_average(run, smoke):
    warm = photon.train(smoke("fl.n_rounds=1", f"pretrained_model_path={run}", "run_uuid=warm"))
    first = checkpoint.list_checkpoints(Path(warm.folder) / "checkpoints")[0]
    expected = load_saved_model(run).params
    assert digest(checkpoint.load_parameters(first)) == digest(expected)


def test_the_card_says_so(run, smoke):
    assert "| parameters are | the average of the rounds, decay 0.6 |" in model_card(
        load_saved_model(run)
    )
    plain = photon.train(smoke("fl.n_rounds=1", "run_uuid=plain"))
    assert "parameters are" not in model_card(load_saved_model(Path(plain.folder)))
