"""The evaluation scripts with the original's names, run as users run them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from photon.config import load_config
from photon.config.compose import with_values
from photon.config.evaluation import IclTask
from photon.data.tokenization import resolved
from photon.data.tokenizer import load_tokenizer
from photon.evaluation.tasks import GENERATION, MULTIPLE_CHOICE, SCHEMA
from photon.model.build import build_model, parameters_of
from photon.run import checkpoint
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import tokenization_facts
from photon.training.state import TrainState

SCRIPTS = Path(__file__).parents[1] / "scripts"
TASKS = load_config(["icl_tasks_config=tasks_v0.3"]).scoring.tasks or []


def bash(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", command, "bash"],
        cwd=cwd,
        env={**os.environ, "PHOTON_PYTHON": sys.executable, "S": str(SCRIPTS), **environment},
        capture_output=True,
        text=True,
    )


def row(task: IclTask) -> dict:
    shared = {"category": "c", "gold": 0}
    if task.icl_task_type == MULTIPLE_CHOICE:
        return {**shared, "query": "q", "choices": ["a", "b"]}
    if task.icl_task_type == SCHEMA:
        return {**shared, "context_options": ["x", "y"], "continuation": "a"}
    if task.icl_task_type == GENERATION:
        return {**shared, "context": "q", "answer": "a"}
    return {**shared, "context": "q", "continuation": "a"}


@pytest.fixture
def suite(tmp_path) -> Path:
    """Task files of a row each, in the tree of the public repository."""
    for task in TASKS:
        path = tmp_path / "public" / "scripts" / task.dataset_uri
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row(task)) + "\n")
    return tmp_path / "public"


def git(*arguments: str, cwd: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=cwd, check=True, capture_output=True)


def test_the_suite_is_cloned(suite, tmp_path):
    git("init", "--quiet", cwd=suite)
    git("add", ".", cwd=suite)
    git("commit", "--quiet", "-m", "tasks", cwd=suite)
    done = bash(f'bash "$S/prepare_eval_dataset.sh" -p P --source file://{suite}', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "32 of 32 tasks, 32 rows" in done.stdout
    data = tmp_path / "P/dataset_cache/eval/local_data"
    assert (data / "world_knowledge/arc_easy.jsonl").is_file()


def test_what_is_missing_is_named(suite, tmp_path):
    folder = suite / "scripts" / "eval" / "local_data"
    (folder / "world_knowledge/mmlu.jsonl").unlink()
    (folder / "world_knowledge/arc_easy.jsonl").write_text("{}\n")
    command = f'. "$S/prepare_eval_dataset.sh" --project_path P --source {folder}'
    done = bash(f'{command}; echo "code $?"', tmp_path)
    assert "30 of 32 tasks" in done.stdout
    assert "code 2" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "arc_easy.jsonl:1: has no 'query'" in lines[0]
    assert "mmlu.jsonl: no such task file" in lines[1]


def test_a_repository_that_is_not_there(tmp_path):
    done = bash('bash "$S/prepare_eval_dataset.sh" -p P --source file:///no/such/place', tmp_path)
    assert done.returncode == 2
    assert "cannot clone file:///no/such/place" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def make_run(smoke, data_root, tmp_path):
    def make(path: Path, name: str, seed: int = 3) -> None:
        config = with_values(
            smoke("run_uuid=r"), {"llm_config.name": name, "llm_config.max_seq_len": 64}
        )
        params = parameters_of(build_model(config.inner, seed))
        tokenizer = data_root / "tokenizer.json"
        facts = tokenization_facts(resolved(load_tokenizer(tokenizer)), tokenizer)
        with RunFolder.create(
            path, config.model_dump(mode="json"), "centralized", tokenizer, facts
        ) as folder:
            checkpoint.save_train_state(
                folder.checkpoints, "step_1", TrainState(params=params, step=1)
            )

    return make


def test_the_newest_model_is_evaluated_on_the_whole_suite(suite, make_run, tmp_path):
    """By eval_gauntlet_only.sh, which it calls."""
    project = tmp_path / "P"
    (project / "dataset_cache").mkdir(parents=True)
    (suite / "scripts" / "eval").rename(project / "dataset_cache" / "eval")
    make_run(project / "runs" / "small", "mpt-125m")
    done = bash('bash "$S/eval_125m_example.sh" --project_path P --json', tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["tasks"]) == 34
    assert found["failures"] == {}
    assert "core_average" in [composite["name"] for composite in found["composites"]]
    assert found["model"] == "small/step_1"
    assert (tmp_path / "P/eval/small-step_1/results.json").is_file()


@pytest.mark.parametrize("text", ['{"model_type": "gpt2"}', "[]", "{"])
def test_what_is_no_run_is_passed_over(make_run, text, tmp_path):
    make_run(tmp_path / "P" / "runs" / "trained", "mpt-125m")
    exported = tmp_path / "P" / "runs" / "exported"
    exported.mkdir()
    (exported / "config.json").write_text(text)
    done = bash('bash "$S/eval_125m_example.sh" -p P --dry-run icl_tasks_config.limit=3', tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "P/runs/trained" in done.stdout


def test_the_newest_125m_run_is_found(make_run, tmp_path):
    command = 'bash "$S/eval_125m_example.sh" -p P --dry-run icl_tasks_config.limit=3'
    for name, model, age in (("old", "mpt-125m", 9), ("new", "llama-125m", 5), ("x", "mpt-1b", 1)):
        make_run(tmp_path / "P/runs" / name, model)
        for path in (tmp_path / "P/runs" / name / "checkpoints").iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    done = bash(command, tmp_path)
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[words.index("evaluate") + 1] == "P/runs/new"
    assert words[-1] == "icl_tasks_config.limit=3"


def test_without_task_files_the_command_is_named_before_anything_is_scored(make_run, tmp_path):
    make_run(tmp_path / "P/runs/small", "mpt-125m")
    done = bash('bash "$S/eval_125m_example.sh" -p P', tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bash scripts/prepare_eval_dataset.sh --project_path P" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "P/eval").exists()


def test_without_a_125m_run_the_command_is_named(tmp_path):
    done = bash('. "$S/eval_125m_example.sh" -p P; echo "code $?"', tmp_path)
    assert done.stdout == "code 2\n"
    assert "bash scripts/cen_125m_example.sh --project_path P" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ['bash "$F"', '. "$F"'])
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("prepare_eval_dataset.sh", "--nonsense"),
        ("prepare_eval_dataset.sh", "--source"),
        ("eval_gauntlet_only.sh", "--project_path P"),
        ("eval_gauntlet_only.sh", "a b"),
        ("eval_125m_example.sh", "--project_path"),
    ],
)
def test_mistakes_are_one_line_and_leave_the_shell_alone(how, script, arguments, tmp_path):
    command = f'set -- {arguments}; {how} "$@"; echo "$? $-"; false; echo on'
    done = bash(command, tmp_path, F=str(SCRIPTS / script))
    code, flags = done.stdout.splitlines()[0].split()
    assert code == "2"
    assert "e" not in flags
    assert done.stdout.splitlines()[1] == "on"
    assert done.stderr.count("\n") == 1
