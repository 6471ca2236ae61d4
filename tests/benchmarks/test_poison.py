"""The benchmark of lying clients alters what liars send and nothing else, and judges right."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from photon import points
from photon.config import load_config
from photon.core.codec import decode, encode, form_fault
from photon.core.messages import Failure, Update
from photon.run.run_data import RunData

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


LIKE = {"w": torch.linspace(-1.0, 1.0, 96).view(8, 12)}


def update_of(client: int, codec, scale: float = 1.0) -> Update:
    gradient = encode({"w": LIKE["w"] * scale}, codec)[0]
    return Update(run="r", round=1, client=client, gradient=gradient, moments={}, num_tokens=7,
                  num_steps=1, base_digest="d", metrics={})  # fmt: skip


@pytest.mark.parametrize("rung", ["fp32", "int4", "uniform:107/7"])
def test_each_lie_is_what_it_is_called_in_the_codec_of_the_run(bench, rung):
    liars, codec = bench("liars"), points.codec(rung)
    own = update_of(7, codec)
    seen = liars.Seen(codec, LIKE, {0: update_of(0, codec, 0.5)})

    def read(update) -> torch.Tensor:
        return decode(update.gradient, LIKE, codec)["w"]

    honest, tell = read(own), {name: lie(own, seen) for name, lie in liars.LIES.items()}
    assert isinstance(tell["absent"], Failure)
    for name, times in (("x1000", 1000.0), ("flipped", -1.0), ("flipped x3", -3.0), ("zero", 0.0)):
        error = (read(tell[name]) - times * honest).abs().max()
        assert error <= 0.3 * abs(times) * honest.abs().max()
    assert torch.equal(read(tell["copied"]), read(seen.others[0]))
    assert tell["10^12 tokens"].num_tokens == 10**12
    assert torch.equal(read(tell["10^12 tokens"]), honest)
    later = update_of(7, codec, 2.0)
    assert torch.equal(read(liars.LIES["stale"](later, seen)), honest)
    if rung == "fp32":
        assert read(tell["nan"]).isnan().all()
    else:
        assert form_fault(tell["nan"].gradient, LIKE, codec), "no number that could be read"


def test_shuffled_rows_hold_the_same_tokens_in_another_order(bench, four):
    config = load_config(["recipe=smoke", f"dataset.train.root_local={four}"])
    data = RunData.of(*config.reading)
    plain = bench("liars").JoinedStream([data.stream(3)])
    shuffled = bench("liars").Shuffled([data.stream(3)])
    rows, after = plain.read(plain.start(), 4)
    mixed, same = shuffled.read(shuffled.start(), 4)
    assert after == same
    assert (rows != mixed).any()
    rows.sort(axis=1)
    mixed.sort(axis=1)
    assert (rows == mixed).all()


def test_small_runs_are_compared_with_those_without_the_liars(bench, four, capsys, monkeypatch):
    poison = bench("poison")
    keys = ["--keys", f"dataset.train.root_local={four}", "--seeds", "1"]
    arms = ["--attacks", "nan", "flipped", "--settings", "kr", "--also", "kr=fl.aggregation=krum"]
    monkeypatch.setattr("sys.argv", ["poison.py", "--smoke", *arms, *keys])
    assert poison.main() == 0
    rows = {tuple(cells[1:3]): cells for line in capsys.readouterr().out.splitlines()[2:]
            if (cells := [cell.strip() for cell in line.split("|")])}  # fmt: skip
    assert set(rows) == {("absent", "mean"), ("absent", "kr"), ("nan", "kr"), ("flipped", "kr")}
    assert rows["absent", "mean"][4] == "+0.00%"
    assert rows["nan", "kr"][3:7] == [*rows["absent", "kr"][3:5], "2 of 2", "same"]
    assert rows["flipped", "kr"][5:7] == ["0 of 2", ""]


def record(attack, seed, loss, digest, taken=0, refused=2):
    return {"attack": attack, "setting": "mean", "seed": seed, "val_loss": loss, "digest": digest,
            "liars_taken": taken, "liars_refused": refused, "reason": "why"}  # fmt: skip


def test_other_parameters_although_all_lies_were_refused_are_a_fault(bench):
    poison = bench("poison")
    records = [record("absent", 1, 4.0, "a", 0, 0), record("absent", 2, 5.0, "b", 0, 0),
               record("nan", 1, 4.0, "a"), record("nan", 2, 5.1, "c"),
               record("zero", 1, 4.4, "d", 2, 0), record("x1000", 2, None, "b")]  # fmt: skip
    shown = poison.table(records)
    assert (
        "| nan | mean | 4.000, 5.100 | +1.00% (+0.00% .. +2.00%) | 4 of 4 | OTHER and same" in shown
    )
    assert "| zero | mean | 4.400 | +10.00% | 0 of 2 |  | why |" in shown
    assert "| x1000 | mean | none | 1 of 1 ended | 2 of 2 | same | why |" in shown


def test_runs_that_ended_are_told_beside_those_that_did_not(bench):
    poison = bench("poison")
    records = [record("absent", 1, 4.0, "a", 0, 0), record("absent", 2, 5.0, "b", 0, 0),
               record("nan", 1, None, "a"), record("nan", 2, 5.1, "c")]  # fmt: skip
    assert "| none, 5.100 | +2.00%, 1 of 2 ended |" in poison.table(records)
    assert "| nan | mean | none |  |" in poison.table(records[2:3]), "there is no control"


def test_finished_runs_are_not_repeated(bench, tmp_path, monkeypatch):
    poison, log, trained = bench("poison"), tmp_path / "log.jsonl", []

    def trained_as(attack, setting, seed, overrides, scale):
        trained.append((attack, setting, seed))
        return {**record(attack, seed, 4.0, "a"), "setting": setting, "wall_seconds": 1.0}

    monkeypatch.setattr(poison, "run", trained_as)
    for seeds in (["1"], ["1", "2"]):
        arms = ["--attacks", "nan", "--settings", "median", "--seeds", *seeds]
        monkeypatch.setattr("sys.argv", ["poison.py", *arms, "--log", str(log)])
        poison.main()
    per_seed = [("absent", "mean"), ("absent", "median"), ("nan", "median")]
    assert trained == [(*arm, seed) for seed in (1, 2) for arm in per_seed]
    assert len(log.read_text().splitlines()) == 6


def test_what_the_default_settings_believe_is_what_they_have_taken(bench):
    poison, records = bench("poison"), bench("records").lines(bench("poison").LOG)
    own = [one for one in records if one["setting"] == poison.REFERENCE]
    taken = {one["attack"] for one in own if one["liars_taken"]}
    assert "zero" in taken
    assert taken <= set(poison.BELIEVED)
    assert not {one["attack"] for one in own if one["liars_refused"]} & set(poison.BELIEVED)
