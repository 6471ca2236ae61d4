"""Tasks inside training, the model card that shows them, and the plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from photon.config.compose import with_values
from photon.errors import DataError, PhotonWarning
from photon.evaluation.gauntlet import Composite
from photon.experiment.experiment import resume, train
from photon.hub.hf_folder import export_folder
from photon.report.evaluation_plots import draw_history, draw_radar
from photon.run.trackers import read_lines
from photon.scoring import task_watch
from photon.scoring.evaluate import Evaluation, evaluate

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
    return with_values(
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
    result = train(with_values(config, {"run_uuid": "central"}), centralized=True)
    (last,) = read_lines(Path(result.folder) / "metrics.jsonl")[-1:]
    assert 0 <= last["metrics/pick/1-shot/accuracy"] <= 1


def _file(config, folder: Path) -> Path:
    path = folder / "tasks.yaml"
    keys = config.scoring
    path.write_text(json.dumps({"icl_tasks": [TASK], "root_dir": keys.folder}))
    return path


def test_a_missing_task_file_stops_a_run_before_it_trains(config):
    broken = with_values(config, {"icl_tasks_config.root_dir": "nowhere"})
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


LONG = {"context": "a", "continuation": "far too long an answer " * 40}


def with_task(config, tmp_path, *rows: dict, **keys):
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"label": "long", "dataset_uri": "long.jsonl", "num_fewshot": [0],
            "icl_task_type": "language_modeling", **keys}  # fmt: skip
    return with_values(config, {"icl_tasks_config.icl_tasks": [TASK, task]})


GENERATED = {"icl_task_type": "generation_task_with_answers"}


@pytest.mark.parametrize(
    ("row", "keys", "message"),
    [
        (LONG, {}, r"long\.jsonl: line 2: an answer has \d+ tokens, too many"),
        ({"context": "", "continuation": "b"}, {}, r"line 2: the context has no tokens"),
        ({"context": "a", "answer": "word " * 99}, GENERATED, "leaves no room for prompts"),
    ],
)
def test_a_task_that_cannot_be_scored_is_refused_before_training(
    config, tmp_path, row, keys, message
):
    good = {"context": "a", "continuation": "b", "answer": "b"}
    with pytest.raises(DataError, match=message) as caught:
        train(with_task(config, tmp_path, good, row, **keys))
    assert str(caught.value).startswith("icl_tasks_config: long, ")
    assert not (tmp_path / "runs").exists()


def test_a_task_that_fails_while_training_costs_no_round(config, tmp_path, monkeypatch):
    good = with_task(config, tmp_path, {"context": "a", "continuation": "b"})

    def fails(model, encoder, task, *args, **kwargs):
        if task.label == "long":
            raise RuntimeError("out of memory")
        return real(model, encoder, task, *args, **kwargs)

    real = task_watch.evaluate_task
    monkeypatch.setattr(task_watch, "evaluate_task", fails)
    with pytest.warns(PhotonWarning, match="long/0-shot is not scored, training goes on"):
        result = train(good)
    records = read_lines(Path(result.folder) / "metrics.jsonl")
    assert [record["round"] for record in records] == [1, 2]
    for record in records:
        assert record["task_failures"] == {"long/0-shot": "RuntimeError: out of memory"}
        assert "metrics/pick/1-shot/accuracy" in record


@pytest.mark.parametrize("damage", ["longer", "gone"])
def test_a_task_that_has_changed_does_not_keep_a_run_from_going_on(config, tmp_path, damage):
    good = with_task(config, tmp_path, {"context": "a", "continuation": "b"})
    folder = Path(train(with_values(good, {"fl.n_rounds": 1})).folder)
    if damage == "gone":
        (tmp_path / "long.jsonl").unlink()
    else:
        (tmp_path / "long.jsonl").write_text(json.dumps(LONG) + "\n")
    with pytest.warns(PhotonWarning, match=r"icl_tasks_config: .*long\.jsonl: "):
        resume(folder, ["fl.n_rounds=2"])
    records = read_lines(folder / "metrics.jsonl")
    assert [list(record.get("task_failures", ())) for record in records] == [[], ["long/0-shot"]]
