"""Tables of an evaluation: names stay whole, however narrow the terminal is."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from photon.cli.main import run
from photon.evaluation.gauntlet import Composite
from photon.evaluation.scoring import TaskScore
from photon.report.console import Console
from photon.report.evaluation_tables import print_harness, print_tables
from photon.scoring.evaluate import Evaluation
from photon.scoring.harness import HarnessResult
from photon.scoring.losses import LossScore
from photon.scoring.scores import Finished

TASK = "symbolic_problem_solving/bigbench_conceptual_combinations/10-shot"
TEXT = "a-very-long-name-of-a-text-that-is-read.txt"
CATEGORY = "gauntlet_category_language_understanding"
MODELS = ("runs/a-federation-with-a-long-name/round_000400", "runs/b/round_000012")


def evaluation(model: str) -> Evaluation:
    score = TaskScore(accuracy=0.5, stderr=0.01, majority=0.25, chance=0.25, n=100,
                      truncated=0, nonfinite=0)  # fmt: skip
    loss = LossScore(loss=3.5, perplexity=33.1, bits_per_byte=1.6, accuracy=0.3, tokens=10_000,
                     of_clients=8)  # fmt: skip
    return Evaluation(
        model=model, folder=f"{model}/evaluation", photon="0", checkpoint={}, tokenizer="t",
        settings={}, losses={TEXT: loss},
        tasks={TASK: Finished(score, "d", 1.0)}, composites=[Composite(CATEGORY, 0.5, ())],
    )  # fmt: skip


def harness(model: str) -> HarnessResult:
    return HarnessResult(model=model, folder="f", checkpoint={}, lm_eval="0", n={TASK: 3},
                         tasks={TASK: {"acc,none": 0.5, "acc_stderr,none": 0.1}})  # fmt: skip


@pytest.fixture(params=[40, 100])
def console(request) -> Console:
    made = Console()
    made.results.width = request.param
    return made


def test_no_name_is_broken(console, capsys):
    print_tables([evaluation(model) for model in MODELS], console)
    out = capsys.readouterr().out
    losses, _, rest = out.partition("composites")
    assert re.findall(
        r"^ *(runs/\S+) +a-very-long-name-of-a-text-that-is-read\.txt", losses, re.M
    ) == [*MODELS]
    assert re.search(rf"^ *{CATEGORY} +0\.5000 +0\.5000 *$", rest, re.M)
    assert re.search(rf"^ *{TASK} +0\.5000 ±0\.0100 +0\.5000 ±0\.0100 +0\.25 ", rest, re.M)
    for part in ("a-federation-with-a-long-name/", "round_000400", "round_000012", "nonfinite"):
        assert part in rest.partition(TASK)[0].replace("results", "")


def test_counts_are_of_every_model_and_numbers_are_short(capsys):
    console = Console()
    console.results.width = 200
    found = [evaluation(model) for model in ("a", "b", "c")]
    for one, truncated in zip(found, (0, 93, 0), strict=True):
        done = one.tasks[TASK]
        one.tasks[TASK] = replace(done, score=replace(done.score, truncated=truncated, nonfinite=7))
        one.losses[TEXT] = replace(one.losses[TEXT], perplexity=math.exp(400))
    del found[2].tasks[TASK]
    print_tables(found, console)
    out = capsys.readouterr().out
    assert re.search(r" 100 +0, 93, - +7 *$", out, re.M)
    assert "5.22e+173" in out


def test_no_name_of_lm_eval_is_broken(console, capsys):
    print_harness([harness(model) for model in MODELS], console)
    assert re.search(rf"{TASK} +acc +0\.5000 ±0\.1000 ", capsys.readouterr().out)


@pytest.mark.parametrize("option", ["--per-client", "--fresh", f"--text={__file__}"])
def test_what_the_harness_does_not_do_is_refused(option, capsys):
    assert run(["evaluate", "m", "--harness", "lm-eval", "--tasks", "say", option]) == 2
    assert f"{option.partition('=')[0]}: is not for --harness" in capsys.readouterr().err
