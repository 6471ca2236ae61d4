"""From a run folder to results: every mistake is one line, and the rest is scored all the same."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from tokenizers import normalizers

from photon.cli.main import run
from photon.config.compose import with_values
from photon.data.tokenization import resolved
from photon.data.tokenizer import load_tokenizer, train_tokenizer
from photon.errors import ConfigError, DataError, StorageError
from photon.evaluation.text import evaluate_text, windows
from photon.hub.hf_folder import export_folder, import_folder
from photon.hub.inference import load_language_model
from photon.model.build import build_model, parameters_of
from photon.run import checkpoint
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import tokenization_facts
from photon.scoring import evaluate as evaluation
from photon.scoring.evaluate import Wanted, evaluate
from photon.training.state import TrainState

TASKS = {
    "pick": ("multiple_choice", [
        {"query": f"x{n}", "choices": ["a", "b"], "gold": n % 2} for n in range(6)]),
    "say": ("language_modeling", [{"context": f"y{n}", "continuation": "b"} for n in range(4)]),
    "write": ("generation_task_with_answers", [
        {"context": f"z{n}", "answer": "b", "aliases": ["c"]} for n in range(3)]),
}  # fmt: skip
GAUNTLET = """
eval_gauntlet:
  categories:
    - {name: one, benchmarks: [{name: pick, num_fewshot: 1, random_baseline: 0.5}]}
    - {name: two, benchmarks: [{name: say, num_fewshot: 0}, {name: gone, num_fewshot: 0}]}
"""


@pytest.fixture
def make_run(smoke, data_root, tmp_path):
    def make(label: str = "run", seed: int = 3, tokenizer: Path | None = None) -> Path:
        config = with_values(
            smoke(f"run_uuid={label}"), {"fl.n_total_clients": 2, "llm_config.max_seq_len": 32}
        )
        params = {k: 2 * v for k, v in parameters_of(build_model(config.inner, seed)).items()}
        tokenizer = tokenizer or data_root / "tokenizer.json"
        facts = tokenization_facts(resolved(load_tokenizer(tokenizer)), tokenizer)
        with RunFolder.create(
            tmp_path / label, config.model_dump(mode="json"), "centralized", tokenizer, facts
        ) as folder:
            checkpoint.save_train_state(
                folder.checkpoints, "step_000007", TrainState(params=params, step=7)
            )
        return folder.path

    return make


@pytest.fixture
def suite(tmp_path) -> Path:
    """A folder of task files."""
    root = tmp_path / "suite"
    root.mkdir()
    for label, (_, rows) in TASKS.items():
        (root / f"{label}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def tasks_of(root: Path, *labels: str, **changes: dict) -> list[str]:
    entries = [
        {
            "label": label,
            "dataset_uri": f"{label}.jsonl",
            "icl_task_type": TASKS.get(label, ("language_modeling",))[0],
            "num_fewshot": [1, 0] if label == "pick" else [0],
            **changes.get(label, {}),
        }
        for label in labels
    ]
    (root / "tasks.yaml").write_text(json.dumps({"icl_tasks": entries, "root_dir": str(root)}))
    return [f"icl_tasks_config={root / 'tasks.yaml'}"]


def gauntlet_of(root: Path) -> str:
    (root / "gauntlet.yaml").write_text(GAUNTLET)
    return f"eval_gauntlet_config={root / 'gauntlet.yaml'}"


def results(found) -> dict:
    return json.loads((Path(found.folder) / "results.json").read_text())


def test_a_run_is_scored(make_run, suite):
    path = make_run()
    overrides = [*tasks_of(suite, *TASKS), gauntlet_of(suite)]
    (found,) = evaluate([path], overrides, wanted=Wanted(samples=True))
    assert found.failures == {}
    assert list(found.tasks) == ["pick/1-shot", "pick/0-shot", "say/0-shot", "write/0-shot"]
    assert set(found.losses) == {"validation"}
    assert found.losses["validation"].above_unigram is not None
    names = {one.name: one for one in found.composites}
    above = (found.tasks["pick/1-shot"].score.accuracy - 0.5) / 0.5
    assert names["one"].score == pytest.approx(above)
    assert "two" not in names
    assert names["partial two (1 of 2)"].missing == ("gone/0-shot",)
    assert names["partial default_average (1 of 2)"].is_average
    saved = results(found)
    assert saved["checkpoint"]["step"] == 7
    assert saved["checkpoint"]["digest"]
    assert saved["tasks"]["say/0-shot"]["data"]
    lines = (Path(found.folder) / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert len(samples) == 6 + 6 + 4 + 3
    picked = [sample for sample in samples if sample["task"] == "pick/1-shot"]
    mean = sum(sample["credit"] for sample in picked) / 6
    assert mean == pytest.approx(found.tasks["pick/1-shot"].score.accuracy)
    for sample in picked:
        means = [loss / count for loss, count in zip(sample["nll"], sample["tokens"], strict=True)]
        assert sample["prediction"] == means.index(min(means))


def test_samples_asked_for_after_the_scores_are_made(make_run, suite):
    path, tasks = make_run(), tasks_of(suite, "pick")
    (found,) = evaluate([path], tasks)
    (again,) = evaluate([path], tasks, wanted=Wanted(samples=True))
    assert len((Path(found.folder) / "samples.jsonl").read_text().splitlines()) == 6 + 6
    scores = [{key: one.score for key, one in its.tasks.items()} for its in (found, again)]
    assert scores[0] == scores[1]


def test_a_checkpoint_its_run_and_its_export_score_the_same(make_run, suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = make_run()
    export_folder(path, tmp_path / "hf")
    places = [path, path / "checkpoints" / "step_000007.json", tmp_path / "hf"]
    overrides = tasks_of(suite, *TASKS)
    found = evaluate(places, overrides, wanted=Wanted(fresh=True))
    scores = [{k: done.score for k, done in one.tasks.items()} for one in found]
    assert scores[0] == scores[1]
    for key, score in scores[0].items():
        assert scores[2][key].accuracy == score.accuracy
    assert found[2].folder == "evaluation/hf"


def test_the_clients_of_a_model_without_a_run_are_those_of_the_data(
    make_run, data_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    export_folder(make_run(), tmp_path / "hf")
    asked = ["icl_tasks_config=empty", f"dataset.val.root_local={data_root}"]
    few = "llm_config.eval_subset_num_batches=1"
    (found,) = evaluate([tmp_path / "hf"], [*asked, few], wanted=Wanted(per_client=True))
    assert found.failures == {}
    assert list(found.losses) == ["validation", "client_0/validation", "client_1/validation"]
    assert found.losses["validation"].above_unigram is not None
    gone = ["icl_tasks_config=empty", "dataset.val.root_local=gone"]
    (found,) = evaluate([tmp_path / "hf"], gone, wanted=Wanted(per_client=True))
    assert list(found.failures) == ["validation"]


def test_an_interrupted_evaluation_goes_on_at_its_task(make_run, suite, monkeypatch):
    path, overrides, real = make_run(), tasks_of(suite, *TASKS), evaluation.evaluate_task
    begun = []

    def until(limit: int):
        def scored(model, encoder, task, *rest, **keys):
            begun.append(task.label)
            if len(begun) > limit:
                raise KeyboardInterrupt
            return real(model, encoder, task, *rest, **keys)

        monkeypatch.setattr(evaluation, "evaluate_task", scored)

    until(2)
    with pytest.raises(KeyboardInterrupt):
        evaluate([path], overrides)
    assert begun == ["pick", "pick", "say"]
    begun.clear()
    until(99)
    (resumed,) = evaluate([path], overrides)
    assert begun == ["say", "write"]
    begun.clear()
    (again,) = evaluate([path], overrides)
    assert begun == []
    (fresh,) = evaluate([path], overrides, wanted=Wanted(fresh=True))
    assert len(begun) == 4
    scores = [{k: done.score for k, done in one.tasks.items()} for one in (resumed, again, fresh)]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("change", ["data", "rows", "task", "model"])
def test_nothing_is_reused_that_would_score_otherwise(make_run, suite, change, monkeypatch):
    path, overrides = make_run(), tasks_of(suite, "say")
    evaluate([path], overrides)
    if change == "data":
        with open(suite / "say.jsonl", "a") as file:
            file.write(json.dumps({"context": "q", "continuation": "b"}) + "\n")
    elif change == "rows":
        overrides = [*overrides, "icl_tasks_config.limit=2"]
    elif change == "task":
        overrides = tasks_of(suite, "say", say={"continuation_delimiter": ":"})
    else:
        manifest = path / "checkpoints" / "step_000007.json"
        params = {k: v + 0.5 for k, v in checkpoint.load_parameters(manifest).items()}
        checkpoint.save_train_state(
            manifest.parent, "step_000007", TrainState(params=params, step=7)
        )
    calls = []
    real = evaluation.evaluate_task
    monkeypatch.setattr(
        evaluation, "evaluate_task", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    evaluate([path], overrides)
    assert calls == [1]


def test_one_bad_task_does_not_stop_the_others(make_run, suite):
    """Whatever is wrong with one task, the others are scored, and the reason is kept."""
    (suite / "empty.jsonl").touch()
    (suite / "broken.jsonl").write_text('{"context": "a", "continuation": "b"}\n{"context": 1}\n')
    (suite / "long.jsonl").write_text(
        json.dumps({"context": "a", "continuation": "word " * 99}) + "\n"
    )
    (suite / "essay.jsonl").write_text("{}\n")
    overrides = tasks_of(
        suite, "gone", "empty", "broken", "long", "essay", "say",
        essay={"icl_task_type": "essay"},
    )  # fmt: skip
    (found,) = evaluate([make_run()], overrides)
    assert list(found.tasks) == ["say/0-shot"]
    reasons = {key.split("/")[0]: reason for key, reason in found.failures.items()}
    assert "gone.jsonl: no such task file" in reasons["gone"]
    assert "has no rows" in reasons["empty"]
    assert "broken.jsonl:2: 'context' must be a text" in reasons["broken"]
    assert "long.jsonl: line 1: an answer has" in reasons["long"]
    assert "unknown icl_task_type 'essay'" in reasons["essay"]
    assert results(found)["failures"] == found.failures


def test_missing_data_is_a_failure_and_no_end(make_run, suite, tmp_path):
    overrides = [*tasks_of(suite, "say"), f"dataset.train.root_local={tmp_path / 'gone'}"]
    (found,) = evaluate([make_run()], overrides, wanted=Wanted(texts=(tmp_path / "no.txt",)))
    assert list(found.tasks) == ["say/0-shot"]
    assert "no prepared data here" in found.failures["validation"]
    assert found.failures[str(tmp_path / "no.txt")] == "no such file"


def test_another_tokenizer_is_refused(make_run, suite, tmp_path):
    other = tmp_path / "other.json"
    train_tokenizer(["some other text altogether"], 260).save(str(other))
    (found,) = evaluate([make_run(tokenizer=other)], tasks_of(suite, "say"))
    assert "another tokenizer" in found.failures["validation"]
    assert list(found.tasks) == ["say/0-shot"]


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        code = run(["evaluate", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_shows_models_side_by_side(make_run, suite, command):
    paths = [str(make_run("a")), str(make_run("b", seed=4))]
    code, out, err = command(*paths, *tasks_of(suite, "pick", "say"), gauntlet_of(suite))
    assert code == 0
    assert all(line.startswith("evaluating ") for line in err.splitlines())
    for word in ("a/step_000007", "b/step_000007", "partial two (1 of 2)", "pick/1-shot",
                 "majority", "nonfinite", "bits/byte", "results.json", "±"):  # fmt: skip
        assert word in out
    code, out, _ = command(*paths, *tasks_of(suite, "say"), "--json")
    assert code == 0
    assert [one["model"] for one in json.loads(out)] == ["a/step_000007", "b/step_000007"]


def test_the_exit_code_says_that_a_task_failed(make_run, suite, command):
    path = str(make_run())
    code, out, err = command(path, *tasks_of(suite, "gone", "say"), "--json")
    assert code == 2
    assert list(json.loads(out)["tasks"]) == ["say/0-shot"]
    assert "1 of 3 scores could not be had" in err
    assert err.count("\n") == 1


def test_nan_is_valid_json(make_run, suite, command):
    path = make_run()
    manifest = path / "checkpoints" / "step_000007.json"
    params = {k: v * math.nan for k, v in checkpoint.load_parameters(manifest).items()}
    checkpoint.save_train_state(manifest.parent, "step_000007", TrainState(params=params, step=7))
    asked = (str(path), *tasks_of(suite, "pick"), "--json", "--samples")
    code, out, _ = command(*asked)
    done = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert code == 0
    assert done["tasks"]["pick/0-shot"]["score"]["nonfinite"] == 6
    folder = Path(done["folder"])
    (sample, *_) = (folder / "samples.jsonl").read_text().splitlines()
    for text in [sample, *(path.read_text() for path in folder.rglob("*.json"))]:
        json.loads(text, parse_constant=lambda name: pytest.fail(name))
    again = json.loads(command(*asked)[1])
    assert again["tasks"] == done["tasks"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: no such run folder or checkpoint"),
        (["icl_tasks_config=light"], "name a run folder"),
        (["RUN", "icl_tasks_config=heavy"], "no such option icl_tasks_config=heavy"),
        (
            ["RUN", "icl_tasks_config=empty", "fl.n_rounds=3"],
            "fl.n_rounds: does not belong to an evaluation",
        ),
        (["RUN", "icl_tasks_config=empty", "icl_tasks_config.max_seq_len=64"], "has 32 positions"),
        (["RUN", "icl_tasks_config=no.yaml"], "no.yaml: cannot be read"),
        (
            ["RUN", "icl_tasks_config=empty", "icl_tasks_config.colour=1"],
            "unknown key 'icl_tasks_config.colour'",
        ),
        (["RUN", "~icl_tasks_config", "~photon.device"], "photon.device: Input should be a valid"),
    ],
)
def test_mistakes_are_one_line(make_run, command, arguments, message):
    path = str(make_run())
    code, out, err = command(*(path if argument == "RUN" else argument for argument in arguments))
    assert code == 2
    assert message in err
    assert out == ""


def test_a_tokenizer_larger_than_the_model_is_refused(make_run, command, tmp_path):
    path = make_run()
    export_folder(path, tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    other = train_tokenizer([" ".join(f"{n} word{n}" for n in range(9999))], 5000)
    assert other.get_vocab_size() > config["vocab_size"]
    other.save(str(tmp_path / "hf/tokenizer.json"))
    code, _, err = command(str(tmp_path / "hf"), "icl_tasks_config=empty")
    assert code == 2
    assert "its tokenizer has 5000 tokens" in err


def test_without_task_data_there_are_losses_and_a_hint(make_run, command):
    code, out, err = command(str(make_run()), "--quiet")
    assert code == 0
    assert "photon: note: no task data in dataset_cache" in err
    assert "validation" in out


def test_where_a_text_is_asked_for_nobody_is_told_of_tasks(tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("photon.scoring.evaluate.open_candidate", lambda *_: 1 / 0)
    monkeypatch.setattr("photon.scoring.evaluate.require_model", lambda _: None)
    for wanted in (Wanted(texts=(tmp_path / "a.txt",)), Wanted()):
        with pytest.raises(ZeroDivisionError):
            evaluate([tmp_path], ["photon.device=cpu"], wanted=wanted, say=said.append)
    assert [line[:12] for line in said] == ["no task data"]


def test_one_task_twice_is_refused(make_run, suite):
    with pytest.raises(ConfigError, match="icl_tasks has say/0-shot twice"):
        evaluate([make_run()], tasks_of(suite, "say", "say"))


def test_a_pattern_that_is_none_costs_its_own_task_alone(make_run, suite):
    overrides = tasks_of(suite, "write", "say", write={"early_stopping_criteria": ["("]})
    (found,) = evaluate([make_run()], [*overrides, "icl_tasks_config.parity=true"])
    assert list(found.tasks) == ["say/0-shot"]
    assert "write.jsonl: early_stopping_criteria ['('] are no" in found.failures["write/0-shot"]


@torch.no_grad()
def test_every_token_of_a_text_is_scored_once(make_run, tmp_path):
    writer = load_language_model(make_run())
    encoder = writer.encoder
    text = "def f(x):\n    return x  # ümlaut\n" * 9
    ids = encoder.ids(text)
    length = writer.model.max_seq_len
    pieces = windows(ids, writer.encoder.end, length)
    assert [t for piece in pieces for t in piece.ids[len(piece.ids) - piece.num_answer :]] == ids
    assert len(pieces[-1].ids) == length + 1 > pieces[-1].num_answer + 1
    total = 0.0
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        seen = torch.tensor([[writer.encoder.end, *ids][stop - length : stop + 1]])
        logits = writer.model(seen[:, :-1])[0, start - stop :]
        targets = seen[0, start - stop :]
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    report = evaluate_text(writer.model, encoder, text)
    assert report.num_tokens == len(ids)
    assert report.loss == pytest.approx(total / len(ids), rel=1e-5)
    assert report.bits_per_byte == pytest.approx(total / math.log(2) / len(text.encode()), rel=1e-5)


def test_a_text_without_a_token_is_refused(make_run):
    """A tokenizer that drops spaces makes nothing of a text of nothing else."""
    writer = load_language_model(make_run())
    writer.encoder.tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(DataError, match="makes no token of this text"):
        evaluate_text(writer.model, writer.encoder, " \n ")


def test_half_a_surrogate_costs_its_own_task_alone(make_run, suite):
    (suite / "half.jsonl").write_text('{"context": "a", "continuation": "\\ud83d"}\n')
    (suite / "deep.jsonl").write_text('{"context": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    (found,) = evaluate([make_run()], tasks_of(suite, "half", "deep", "say"))
    assert list(found.tasks) == ["say/0-shot"]
    assert "half.jsonl:1: character" in found.failures["half/0-shot"]
    assert r"'\ud83d', which is no text" in found.failures["half/0-shot"]
    assert "deep.jsonl:1: is no JSON" in found.failures["deep/0-shot"]


def test_a_folder_that_takes_no_results_is_named_before_anything_is_scored(
    make_run, suite, monkeypatch, tmp_path
):
    path = make_run()
    (path / "evaluation").write_text("in the way")
    monkeypatch.setattr(evaluation, "evaluate_task", None)
    with pytest.raises(StorageError, match=r"cannot write results \(.*destination_dir"):
        evaluate([path], tasks_of(suite, "say"))
    monkeypatch.undo()
    elsewhere = f"eval_gauntlet_config.destination_dir={tmp_path / 'elsewhere'}"
    (found,) = evaluate([path], [*tasks_of(suite, "say"), elsewhere])
    assert not found.failures
    assert (Path(found.folder) / "results.json").is_relative_to(tmp_path / "elsewhere")


def test_losses_tell_how_far_they_are_beside_tasks_too(make_run, suite, tmp_path):
    (text := tmp_path / "text.txt").write_text("def f(x): return x\n" * 60)
    run = make_run()
    for tasks, last in ((["icl_tasks_config=empty"], str(text)), (tasks_of(suite, "say"), "say")):
        progress = MagicMock()
        evaluate([run], tasks, wanted=Wanted((text,)), progress=progress)
        seen = [call.args for call in progress.call_args_list]
        names = list(dict.fromkeys(what for what, _ in seen))
        assert names[:2] == ["validation", str(text)]
        assert names[-1].startswith(last)
        shares = [done for _, done in seen]
        assert shares == sorted(shares)
        assert len({done for what, done in seen if what == "validation"}) > 4
        assert max(done for what, done in seen if what == "validation") > 0.5, "the most text"
        assert shares[-1] == pytest.approx(1)


def test_a_run_that_trains_on_is_scored_though_its_newest_checkpoint_goes(make_run, monkeypatch):
    """Between its choice and its reading; a checkpoint that was named itself has no other."""
    path, load = make_run(), checkpoint.load_model
    old = checkpoint.newest_checkpoint(path / "checkpoints")

    def replaced(manifest: Path):
        if manifest == old:
            params = dict(load(manifest))
            checkpoint.save_train_state(
                manifest.parent, "step_000008", TrainState(params=params, step=8)
            )
            manifest.unlink(missing_ok=True)
        return load(manifest)

    monkeypatch.setattr(checkpoint, "load_model", replaced)
    (found,) = evaluate([path], ["icl_tasks_config=empty"])
    assert found.checkpoint["step"] == 8


def test_a_prompt_that_is_no_text_is_refused(make_run, capsys):
    prompt = os.fsdecode(b"a\xff")
    assert run(["generate", str(make_run()), prompt]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(r"photon: PROMPT: character 2 is '\udcff', which is no text")
    assert err.count("\n") == 1


def test_a_model_of_which_nothing_could_be_scored_is_no_success(make_run, command, tmp_path):
    """An imported one: its data is not known, and no task or text was named."""
    export_folder(make_run(), tmp_path / "hf")
    import_folder(tmp_path / "hf", tmp_path / "imported")
    for model in ("hf", "imported"):
        code, out, err = command(str(tmp_path / model))
        assert code == 2
        assert "1 of 1 scores could not be had" in err
        assert "give dataset.val.root_local, --text FILE, or tasks" in out
