"""Results of different models, tasks and texts never lie in one place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from photon.evaluation.scoring import TaskScore
from photon.hub import model_card
from photon.scoring.candidate import open_candidate
from photon.scoring.evaluate import Wanted, evaluate
from photon.scoring.losses import losses_to_score
from photon.scoring.scores import Finished, ScoreFolder, joined
from photon.scoring.text_files import read_text_file


@pytest.fixture
def make_folder(data_root, tmp_path):
    """Gives a folder of `transformers` with weights of a seed."""

    def make(place: str, seed: int) -> Path:
        torch.manual_seed(seed)
        config = transformers.AutoConfig.for_model(
            "llama", hidden_size=8, intermediate_size=16, num_hidden_layers=1, vocab_size=512,
            num_attention_heads=1, max_position_embeddings=32,
        )  # fmt: skip
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / place)
        (tmp_path / place / "tokenizer.json").write_bytes(
            (data_root / "tokenizer.json").read_bytes()
        )
        return tmp_path / place

    return make


@pytest.mark.parametrize("chosen", ["evaluation", "elsewhere"])
def test_models_of_one_name_have_results_of_their_own(make_folder, tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("def f(x): return x\n")
    paths = [make_folder("a/m", 1), make_folder("b/m", 2)]
    keys = ["icl_tasks_config=empty", "photon.device=cpu"]
    keys += [f"eval_gauntlet_config.destination_dir={chosen}"] if chosen != "evaluation" else []

    def score(*models: Path):
        return evaluate(models, keys, wanted=Wanted(texts=(Path("text.txt"),)))

    first, second = score(*paths)
    assert first.folder == f"{chosen}/m"
    assert second.folder == f"{chosen}/m-{Path(second.folder).name[2:]}"
    for one in (first, second):
        saved = json.loads((Path(one.folder) / "results.json").read_text())
        assert saved["checkpoint"]["digest"] == one.checkpoint["digest"]
        assert saved["losses"]["text.txt"]["loss"] == one.losses["text.txt"].loss
    again = score(*reversed(paths))
    assert [one.folder for one in again] == [second.folder, first.folder]


def test_tasks_of_any_label_have_files_of_their_own(tmp_path):
    folder = ScoreFolder(tmp_path, {})
    keys = [f"{label}/0-shot" for label in ("a b", "a_b", "日本", "中国", "a/b", "x" * 300)]
    for number, key in enumerate(keys):
        score = TaskScore(accuracy=number, stderr=0.0, majority=0.0, chance=0.0, n=1,
                          truncated=0, nonfinite=0)  # fmt: skip
        folder.write(key, {}, Finished(score, "d", 0.0), ())
        folder.samples(key).write_text(f"{key}\n")
    for number, key in enumerate(keys):
        found = folder.read(key, {}, samples=True)
        assert found is not None
        assert found.score.accuracy == number
    assert folder.join_samples(keys).read_text().splitlines() == keys
    assert (tmp_path / "tasks" / "a_b_0-shot.json").exists(), "what names a file is left as it is"


def test_a_text_is_not_taken_for_a_part_of_the_data(make_folder):
    keys = ["dataset.val.root_local=somewhere", "icl_tasks_config=empty"]
    candidate = open_candidate(make_folder("m", 1), keys, torch.device("cpu"))
    texts = [Path(name) for name in ("validation", "client_3/validation", "x/validation")]
    names = [*losses_to_score(candidate, texts, per_client=False)]
    assert names == ["validation", "./validation", "./client_3/validation", "x/validation"]


def test_a_text_file_is_read_as_prepare_reads_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text_file(tmp_path / "a.txt") == "one\r\ntwo\rthree\n"


def test_a_card_shows_scores_that_are_no_numbers():
    """As those of a model that computes NaN, which JSON has no number for."""
    score = {"accuracy": None, "stderr": None, "chance": 0.25, "majority": None, "n": 7}
    found = {"composites": [], "tasks": {"piqa": {"score": score}}}
    assert list(model_card._score_lines(found))[2:] == ["| piqa | - ± - | 0.25 | - | 7 |"]


def test_a_text_scored_after_the_tasks_leaves_their_scores_in_the_file(make_folder, tmp_path):
    (tmp_path / "text.txt").write_text("def f(x): return x\n")
    (tmp_path / "ask.jsonl").write_text('{"context": "a", "continuation": "b"}\n' * 3)
    task = {"label": "ask", "dataset_uri": "ask.jsonl", "num_fewshot": [0],
            "icl_task_type": "language_modeling"}  # fmt: skip
    (tmp_path / "t.yaml").write_text(json.dumps({"icl_tasks": [task], "root_dir": str(tmp_path)}))
    place = f"eval_gauntlet_config.destination_dir={tmp_path / 'out'}"
    model, tasks = make_folder("m", 1), f"icl_tasks_config={tmp_path / 't.yaml'}"

    def score(*overrides: str, **wanted) -> tuple[list[str], list[str]]:
        keys = [place, "photon.device=cpu", *overrides]
        (found,) = evaluate([model], keys, wanted=Wanted(**wanted))
        saved = json.loads((Path(found.folder) / "results.json").read_text())
        return list(saved["tasks"]), list(saved["losses"])

    none = "icl_tasks_config=empty"
    assert score(tasks) == (["ask/0-shot"], [])
    texts = (tmp_path / "text.txt",)
    name = str(texts[0])
    assert score(none, texts=texts) == (["ask/0-shot"], [name])
    assert score(none, "icl_tasks_config.limit=2", texts=texts) == ([], [name])
    assert score(tasks, fresh=True) == (["ask/0-shot"], [])


def test_earlier_results_are_of_the_same_model_and_say_nothing_that_was_scored_again():
    about = {"photon": "1", "checkpoint": {"digest": "d"}, "tokenizer": "t",
             "settings": {"limit": None}}  # fmt: skip
    earlier = {**about, "losses": {"a": 1}, "tasks": {"x": 1, "y": 2}, "failures": {"z": "gone"},
               "composites": [7]}  # fmt: skip
    result = {**about, "losses": {"b": 3}, "tasks": {"z": 4}, "failures": {}, "composites": []}
    both = {"losses": {"a": 1, "b": 3}, "tasks": {"x": 1, "y": 2, "z": 4}, "failures": {}}
    assert joined(earlier, result) == {**about, **both, "composites": [7]}
    failed = {**result, "tasks": {}, "failures": {"x": "gone"}}
    assert joined(earlier, failed)["tasks"] == {"y": 2}
    assert joined(earlier, failed)["composites"] == []
    assert joined(earlier, {**result, "composites": [8]})["composites"] == [8]
    other = {**result, "checkpoint": {"digest": "e"}}
    assert joined(earlier, other) == other
