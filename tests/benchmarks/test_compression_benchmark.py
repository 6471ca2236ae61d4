"""The benchmark of compression counts, compares and judges right; its arms are configurations."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from photon.config import load_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def record(arm, seed, loss, sent, **more):
    """A line of the log; `sent` in both directions together."""
    place = {"model": "tiny", "split": "iid", "local_steps": 16, "rounds": None}
    counted = {"bytes_up": sent // 4, "bytes_down": sent - sent // 4, "bytes_ddp": 10_000}
    return {"arm": arm, "seed": seed, "val_loss": loss, **place, **counted, **more}


RUNS = [
    record("averaged: bf16", 1, 3.2, 2_000),
    record("kept: bf16", 1, 4.0, 1_000),
    record("kept: bf16", 2, 4.4, 1_000),
    record("kept: int4", 1, 4.02, 180),
    record("kept: int4", 2, 4.4, 200),
    record("kept: int1", 1, 4.2, 80),
    record("kept: int1", 2, None, 80),
]


def test_compares_each_seed_with_the_reference_of_its_own(bench):
    ((setting, found),) = bench("compression_table").rows(RUNS).items()
    assert setting.title == "model tiny, iid, 24 rounds of 16 steps"
    quickstart, reference, int4, int1 = found
    assert (quickstart.worse, reference.worse) == ([0], [0, 0])
    assert quickstart.beside == 0
    assert int4.beside == pytest.approx(4.02 / 3.2 - 1)  # the seed that both have
    assert (int4.loss, int4.spread) == pytest.approx((4.21, 0.19))
    assert int4.worse == pytest.approx([0.005, 0])
    assert int4.times == pytest.approx(50)  # the seed that sent the most
    assert int1.loss == float("inf")


def test_does_not_compare_with_what_diverged(bench):
    (found,) = bench("compression_table").rows([*RUNS, record("kept: bf16", 2, None, 9)]).values()
    assert found[2].worse == pytest.approx([0.005])


def test_does_not_compare_across_settings(bench):
    apart = [RUNS[1], record("kept: int4", 1, 4.02, 180, local_steps=64)]
    by_setting = bench("compression_table").rows(apart)
    assert [len(found) for found in by_setting.values()] == [1, 1]
    assert next(reversed(by_setting.values()))[0].worse == []


def test_prints_a_table_for_each_setting(bench):
    lines = bench("compression_table").table(RUNS).splitlines()
    assert any(line.startswith("| averaged: bf16 | 1 | 3.200 | +0.00% | ") for line in lines)
    assert lines[-2:] == [
        "| kept: int4 | 2 | 4.210 ± 0.190 | +0.25% (+0.00% .. +0.50%) | +25.62% | 50.0x |",
        "| kept: int1 | 2 | diverged |  |  | 125.0x |",
    ]


def test_sums_the_bytes_of_all_rounds_and_takes_the_last_loss(bench):
    history = [
        {"bytes_up": 1, "bytes_down": 10, "bytes_ddp": 100, "val_loss": 5.0},
        {"bytes_up": 2, "bytes_down": 20, "bytes_ddp": 100, "val_loss": 4.0},
        {"bytes_up": 4, "bytes_down": 40, "bytes_ddp": 100},
    ]
    assert bench("compression").sums(history) == {
        "bytes_up": 7,
        "bytes_down": 70,
        "bytes_ddp": 300,
        "val_loss": 4.0,
    }


def test_longer_rounds_are_fewer(bench):
    arms = bench("compression_arms")
    assert [arms.Setting(local_steps=h).length for h in arms.LOCAL_STEPS] == [24, 12, 6]
    assert arms.Setting(rounds=200).length == 200


def test_every_arm_is_a_configuration_of_its_own(bench):
    arms = bench("compression_arms")
    setting = arms.Setting(model="four times", split="source", local_steps=64)
    configs = [
        load_config([*bench("base_recipe").BASE, *arms.overrides_of(arm, setting, 2)])
        for arm in arms.ARMS
    ]
    sent = {
        (fl.compression, fl.averages_moments, fl.first_moment_period, fl.fragments, fl.ema_decay)
        for fl in (config.federation for config in configs)
    }
    assert len(sent) == len(arms.ARMS)
    assert {(c.federation.rounds, c.inner.local_steps, c.seed) for c in configs} == {(6, 64, 2)}


def test_what_an_arm_is_compared_with_is_run_too(bench):
    arms = bench("compression_arms")
    assert arms.chosen([]) == list(arms.ARMS)
    assert arms.chosen(["topk:64/4096 / int4, no"]) == [
        "averaged: bf16",
        "kept: bf16",
        "kept: topk:64/4096 / int4, no feedback",
    ]
    with pytest.raises(ValueError, match="no arm is named 'int3'"):
        arms.chosen(["int3"])


def test_the_table_leaves_the_checkout_as_it_was(bench, tmp_path, monkeypatch, capsys):
    log, images = tmp_path / "log.jsonl", BENCHMARKS.parent / "docs" / "images"
    log.write_text("".join(f"{json.dumps(one)}\n" for one in RUNS))
    before = set(images.iterdir())
    monkeypatch.setattr("sys.argv", ["compression.py", "table", "--log", str(log)])
    bench("compression").main()
    assert capsys.readouterr().out == f"{bench('compression_table').table(RUNS)}\n"
    assert set(images.iterdir()) == before


def test_runs_that_the_log_has_are_not_repeated(bench, tmp_path, monkeypatch):
    compression = bench("compression")
    log = tmp_path / "log.jsonl"
    trained = []

    def trained_as(arm, setting, seed, *, quick):
        trained.append((arm, seed))
        return record(arm, seed, 4.0, 200)

    monkeypatch.setattr(compression, "run", trained_as)
    arguments = ["compression.py", "run", "kept: bf16", "--seeds", "1", "--log", str(log)]
    for seeds in (["1"], ["1", "2"]):
        monkeypatch.setattr("sys.argv", [*arguments[:4], *seeds, *arguments[5:]])
        compression.main()
    assert len(trained) == len(set(trained))
    assert {seed for _, seed in trained} == {1, 2}
    assert len(log.read_text().splitlines()) == len(trained)
    assert json.loads(log.read_text().splitlines()[0])["arm"] == "averaged: bf16"
