"""lm-eval over our scorer says what lm-eval says over the exported model, row by row."""

from __future__ import annotations

import json
import logging
import math
import warnings

import pytest
import torch
import transformers

from photon.cli.main import run as photon_command
from photon.config.compose import with_values
from photon.config.evaluation import IclTask
from photon.data.tokenization import resolved
from photon.data.tokenizer import load_tokenizer
from photon.errors import DataError
from photon.evaluation.evaluate import Settings, evaluate_task
from photon.evaluation.generation import continuations
from photon.evaluation.likelihood import Passes
from photon.evaluation.tasks import LANGUAGE_MODELING, read_rows
from photon.hub.hf_folder import export_folder
from photon.model.build import build_model, parameters_of
from photon.run import checkpoint
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import tokenization_facts
from photon.scoring.candidate import open_candidate
from photon.scoring.harness import evaluate_by_harness
from photon.training.state import TrainState

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra eval")
from lm_eval.api.instance import Instance  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
transformers.utils.logging.disable_progress_bar()

ROWS = {
    "pick": [{"query": f"def f{n}(x):", "choices": [" return x", " pass", " x = 1"], "gold": n % 3}
             for n in range(7)],
    "say": [{"context": f"import os\nx{n} = os", "continuation": ".path"} for n in range(5)],
    "roll": [{"text": "def read(path):\n    return open(path).read()\n" * n} for n in (1, 3)],
    "write": [{"context": f"class A{n}", "answer": "x"} for n in range(3)],
}  # fmt: skip
YAML = {
    "pick": ("multiple_choice", "{{query}}", 'doc_to_choice: "{{choices}}"\n'
             'doc_to_target: gold\ntarget_delimiter: ""\n', ("acc", "acc_norm")),
    "say": ("loglikelihood", "{{context}}", 'doc_to_target: "{{continuation}}"\n', ("acc",)),
    "roll": ("loglikelihood_rolling", "", 'doc_to_target: "{{text}}"\n',
             ("bits_per_byte", "word_perplexity")),
    "write": ("generate_until", "{{context}}", 'doc_to_target: "{{answer}}"\n'
              'generation_kwargs: {until: ["\\n\\n", "e"], max_gen_toks: 12, do_sample: false}\n',
              ("exact_match",)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


@pytest.fixture
def tasks(tmp_path):
    """A folder of lm-eval tasks with their data."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, (kind, text, more, metrics) in YAML.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
            f'test_split: test\noutput_type: {kind}\ndoc_to_text: "{text}"\n{more}metric_list:\n'
            + "".join(f"  - metric: {metric}\n" for metric in metrics)
        )
    return folder


@pytest.fixture
def run_path(smoke, data_root, tmp_path):
    config = with_values(smoke("run_uuid=r"), {"llm_config.max_seq_len": 32})
    params = {k: 3 * v for k, v in parameters_of(build_model(config.inner, 5)).items()}
    tokenizer = data_root / "tokenizer.json"
    facts = tokenization_facts(resolved(load_tokenizer(tokenizer)), tokenizer)
    with RunFolder.create(
        tmp_path / "r", config.model_dump(mode="json"), "centralized", tokenizer, facts
    ) as folder:
        checkpoint.save_train_state(
            folder.checkpoints, "step_000001", TrainState(params=params, step=1)
        )
    return folder.path


def test_rows_agree_with_lm_evals_own_model(run_path, tasks, tmp_path):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    export_folder(run_path, tmp_path / "hf")
    reference = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(tmp_path / "hf"), device="cpu", batch_size=2, max_length=32),
        tasks=list(YAML),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    ours = evaluate_by_harness(run_path, list(YAML), folder=tasks, samples=True)
    for name in YAML:
        theirs = sorted(reference["samples"][name], key=lambda sample: sample["doc_id"])
        mine = sorted(ours.samples[name], key=lambda sample: sample["doc_id"])
        assert len(mine) == len(ROWS[name])
        for one, other in zip(mine, theirs, strict=True):
            assert list(one["resps"]) != []
            for got, expected in zip(_flat(one["resps"]), _flat(other["resps"]), strict=True):
                assert got == (
                    expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-4)
                )
        for metric in YAML[name][3]:
            key = f"{metric},none"
            expected = reference["results"][name][key]
            assert ours.tasks[name][key] == pytest.approx(expected, rel=1e-4)


def _flat(value) -> list[float | str]:
    """The numbers and texts in nested lists."""
    if isinstance(value, (list, tuple)):
        return [leaf for entry in value for leaf in _flat(entry)]
    return [value if isinstance(value, str) else float(value)]


def test_language_modelling_agrees_with_our_task(run_path, tasks, tmp_path):
    """The rules coincide: greedy match of the continuation after the bare context."""
    task = IclTask.model_validate(
        {"label": "say", "dataset_uri": "say.jsonl", "icl_task_type": LANGUAGE_MODELING,
         "num_fewshot": [0]}
    )  # fmt: skip
    candidate = open_candidate(run_path, ["icl_tasks_config=empty"], torch.device("cpu"))
    candidate.encoder.needs_space = False  # lm-eval adds no space either
    score, samples = evaluate_task(
        candidate.model, candidate.encoder, task, read_rows(tasks / "say.jsonl", task), 0,
        settings=Settings(32), passes=Passes(),
    )  # fmt: skip
    harness = evaluate_by_harness(run_path, ["say"], folder=tasks, samples=True)
    assert harness.tasks["say"]["acc,none"] == score.accuracy
    theirs = sorted(harness.samples["say"], key=lambda sample: sample["doc_id"])
    for one, other in zip(samples, theirs, strict=True):
        log_likelihood, is_greedy = other["filtered_resps"][0]
        assert math.isclose(-one.scores[0].nll, float(log_likelihood), rel_tol=1e-4)
        assert one.scores[0].is_greedy == (str(is_greedy) == "True")


@pytest.fixture
def adapter(run_path):
    from photon.scoring.lm_adapter import PhotonLM

    candidate = open_candidate(run_path, ["icl_tasks_config=empty"], torch.device("cpu"))
    return PhotonLM(candidate.model, candidate.encoder, Passes(), 32)


def test_a_continuation_longer_than_the_model_is_refused(adapter):
    """Its first tokens would have nothing before them; other tokens' logits told them."""
    (longest,) = adapter._loglikelihood_tokens([(None, [1, 2], [3] * 32)])
    assert longest[0] < 0
    with pytest.raises(DataError, match="a continuation has 33 tokens, but texts have at most 32"):
        adapter._loglikelihood_tokens([(None, [1, 2], [3] * 33)])


def test_an_empty_stop_string_stops_nothing_and_an_empty_prompt_opens_a_text(adapter):
    def written(prompt, *until):
        ask = Instance(
            "generate_until", {}, (prompt, {"until": list(until), "max_gen_toks": 16}), 0
        )
        return adapter.generate_until([ask])

    assert written("def f", "") == written("def f")
    opening, end = [adapter.prefix_token_id], adapter.encoder.end
    passes, model = adapter.passes, adapter.model
    (ids,) = continuations(model, [opening], max_new_tokens=16, end=end, passes=passes)
    assert written("") == [adapter._text(ids)]


def test_the_command(run_path, tasks, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    harness = ["--harness", "lm-eval", "--tasks-folder", str(tasks)]
    code = photon_command(["evaluate", str(run_path), *harness, "--tasks", "pick,say", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert code == 0
    assert out["n"] == {"pick": 7, "say": 5}
    assert 0 <= out["tasks"]["pick"]["acc,none"] <= 1
    code = photon_command(["evaluate", str(run_path), *harness, "--tasks", "pick"])
    out = capsys.readouterr().out
    assert "acc_norm" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--harness", "lm-eval"], "needs --tasks"),
        (["--tasks", "pick"], "--tasks needs --harness"),
        (["--harness", "lm-eval", "--tasks", "nope", "--tasks-folder", "FOLDER"], "no such task"),
    ],
)
def test_mistakes(run_path, tasks, capsys, arguments, message):
    arguments = [str(tasks) if argument == "FOLDER" else argument for argument in arguments]
    assert photon_command(["evaluate", str(run_path), *arguments]) == 2
    assert message in capsys.readouterr().err
