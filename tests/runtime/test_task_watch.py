"""Tasks inside training, the model card that shows them, and the plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from photon.cli.evaluation_plots import draw_history, draw_radar
from photon.config.resolve import replace_keys
from photon.errors import DataError
from photon.evaluation.gauntlet import Composite
from photon.runtime.evaluate import Evaluation, evaluate
from photon.runtime.exchange import export_folder
from photon.runtime.experiment import train
from photon.runtime.trackers import read_lines

ROWS = [{"query": f"x{n}", "choices": ["a", "b"], "gold": n % 2} for n in range(6)]
TASK = {"label": "pick", "dataset_uri": "pick.jsonl", "icl_task_type": "multiple_choice",
        "num_fewshot": [0, 1]}  # fmt: skip
GAUNTLET = {
    "categories": [
        {"name": "one", "benchmarks": [
            {"name": "pick", "num_fewshot": 1, "random_baseline": 0.5}]},
        {"name": "two", "benchmarks": [{"name": "gone", "num_fewshot": 0}]},
    ]
}  # fmt: skip


@pytest.fixture
def config(smoke, tmp_path):
    (tmp_path / "pick.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return replace_keys(
        smoke("run_uuid=watched"),
        {
            "icl_tasks_config.icl_tasks": [TASK],
            "icl_tasks_config.root_dir": str(tmp_path),
            "eval_gauntlet_config.eval_gauntlet": GAUNTLET,
        },
    )


def test_tasks_are_scored_whenever_the_run_validates(config, smoke):
    result = train(config)
    folder = Path(result.folder)
    records = read_lines(folder / "metrics.jsonl")
    assert [record["round"] for record in records] == [1, 2]
    for record in records:
        accuracy = record["metrics/pick/1-shot/accuracy"]
        assert "metrics/pick/0-shot/accuracy" in record
        assert record["icl/metrics/eval_gauntlet/one"] == pytest.approx((accuracy - 0.5) / 0.5)
        assert "icl/metrics/eval_gauntlet/two" not in record
    plain = read_lines(Path(train(smoke("run_uuid=plain")).folder) / "metrics.jsonl")
    assert [one["train_loss"] for one in plain] == [one["train_loss"] for one in records]
    assert not any(key.startswith("metrics/") for key in plain[0])

    (found,) = evaluate([folder], [f"icl_tasks_config={_file(config, folder)}"])
    last = {f"metrics/{key}/accuracy": done.score.accuracy for key, done in found.tasks.items()}
    assert last == {key: records[-1][key] for key in last}
    assert draw_history(folder).read_bytes().startswith(b"\x89PNG")

    export_folder(folder, folder / "hf")
    card = (folder / "hf" / "README.md").read_text()
    for text in (
        "# watched",
        "| rounds | 2 |",
        "| clients | 2, 2 in a round |",
        f"| tokens | {records[-1]['tokens']} |",
        "data | embedded, digest ",
        "bits per byte",
        f"| pick/1-shot | {last['metrics/pick/1-shot/accuracy']:.4f}",
    ):
        assert text in card  # fmt: skip
    assert str(folder) not in card


def test_a_centralised_run_scores_its_tasks_too(config):
    result = train(replace_keys(config, {"run_uuid": "central"}), centralized=True)
    (last,) = read_lines(Path(result.folder) / "metrics.jsonl")[-1:]
    assert 0 <= last["metrics/pick/1-shot/accuracy"] <= 1


def _file(config, folder: Path) -> Path:
    path = folder / "tasks.yaml"
    keys = config.icl_tasks_config
    path.write_text(json.dumps({"icl_tasks": [TASK], "root_dir": keys.root_dir}))
    return path


def test_a_missing_task_file_stops_a_run_before_it_trains(config):
    broken = replace_keys(config, {"icl_tasks_config.root_dir": "nowhere"})
    with pytest.raises(DataError, match="no such task file"):
        train(broken)


def evaluation(*composites: Composite) -> Evaluation:
    return Evaluation(model="m", folder="f", photon="0", checkpoint={}, tokenizer="t", settings={},
                      composites=list(composites))  # fmt: skip


def test_the_radar_shows_whole_categories_only(tmp_path):
    whole = [Composite(name, 0.1 * n, ()) for n, name in enumerate("abcd")]
    partial = Composite("partial e (1 of 2)", 0.5, ("x/0-shot",))
    target = tmp_path / "radar.png"
    drawn = draw_radar([evaluation(*whole, partial), evaluation(*whole[:3])], target)
    assert drawn == target
    assert target.read_bytes().startswith(b"\x89PNG")
    assert draw_radar([evaluation(*whole[:2], partial)], target) is None
