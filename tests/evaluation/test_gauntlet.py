"""Composites by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from photon.config import load_config
from photon.config.evaluation import Gauntlet
from photon.errors import ConfigError
from photon.evaluation.gauntlet import composites
from photon.evaluation.scoring import TaskScore

CATEGORIES = [
    {"name": "knows", "benchmarks": [
        {"name": "x", "num_fewshot": 3, "random_baseline": 0.25},
        {"name": "y", "num_fewshot": 0, "random_baseline": 0.5}]},
    {"name": "reads", "benchmarks": [{"name": "z", "num_fewshot": 0}]},
]  # fmt: skip


def of(accuracy: float, n: int = 4) -> TaskScore:
    return TaskScore(
        accuracy=accuracy, stderr=0.0, majority=0.5, chance=0.5, n=n, truncated=0, nonfinite=0
    )


SCORES = {"x/3-shot": of(0.4, n=2), "y/0-shot": of(0.4, n=16), "z/0-shot": of(0.3)}
X, Y, Z = (0.4 - 0.25) / 0.75, (0.4 - 0.5) / 0.5, 0.3


def by_name(gauntlet: Gauntlet, scores=SCORES, **keys):
    return {found.name: found.score for found in composites(gauntlet, scores, **keys)}


@pytest.mark.parametrize(
    ("weighting", "knows"),
    [
        ("EQUAL", (X + Y) / 2),
        ("SAMPLE_SZ", (2 * X + 16 * Y) / 18),
        ("LOG_SAMPLE_SZ", (1 * X + 4 * Y) / 5),
    ],
)
def test_weights(weighting, knows):
    got = by_name(Gauntlet(weighting=weighting, categories=CATEGORIES))
    assert got == pytest.approx({"knows": knows, "reads": Z, "default_average": (knows + Z) / 2})


def test_without_rescaling_or_subtraction():
    plain = Gauntlet(subtract_random_baseline=False, rescale_accuracy=False, categories=CATEGORIES)
    assert by_name(plain)["knows"] == pytest.approx(0.4)
    above = Gauntlet(rescale_accuracy=False, categories=CATEGORIES)
    assert by_name(above)["knows"] == pytest.approx((0.15 - 0.1) / 2)


def test_what_lacks_a_benchmark_never_has_the_official_name():
    gauntlet = Gauntlet(averages={"core": ["knows", "reads"]}, categories=CATEGORIES)
    got = by_name(gauntlet, {key: SCORES[key] for key in ("x/3-shot", "z/0-shot")})
    assert got == pytest.approx(
        {"partial core (1 of 2)": (X + Z) / 2, "partial knows (1 of 2)": X, "reads": Z}
    )
    assert by_name(gauntlet, {}) == {
        "partial core (0 of 2)": None,
        "partial knows (0 of 2)": None,
        "partial reads (0 of 1)": None,
    }
    assert not {"core", "knows", "reads"} & set(by_name(gauntlet, is_whole=False))


@pytest.mark.parametrize(
    "keys",
    [
        {"averages": {"knows": ["reads"]}},
        {"averages": {"core": ["nothing"]}},
        {"subtract_random_baseline": False},
        {"weighting": "MEDIAN"},
    ],
)
def test_contradictions_are_refused(keys):
    with pytest.raises(ValidationError):
        Gauntlet(categories=CATEGORIES, **keys)


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("empty", None), ("tasks_v0.3", 32), ("tasks_v0.3_sps_only", 9),
     ("tasks_v0.3_sps_only_plus_mmlu", 10)],
)  # fmt: skip
def test_the_originals_lists(name, tasks):
    found = load_config([f"icl_tasks_config={name}"]).scoring.tasks
    assert (found and len(found)) == tasks


def test_every_benchmark_of_the_gauntlet_is_in_its_tasks():
    config = load_config(["icl_tasks_config=tasks_v0.3", "eval_gauntlet_config=eval_gauntlet_v0.3"])
    gauntlet, tasks = config.composites.gauntlet, config.scoring.tasks
    keys = {f"{task.label}/{count}-shot" for task in tasks for count in task.num_fewshot}
    wanted = {b.key for category in gauntlet.categories for b in category.benchmarks}
    assert len(keys) == 34
    assert keys - wanted == {
        "arc_challenge/25-shot", "hellaswag/10-shot", "bigbench_cs_algorithms/10-shot",
    }  # fmt: skip
    assert wanted < keys
    assert [len(category.benchmarks) for category in gauntlet.categories] == [6, 7, 4, 8, 6]
    perfect = {key: of(1.0) for key in wanted}
    assert by_name(gauntlet, perfect)["core_average"] == pytest.approx(1.0)


def test_unknown_keys_of_a_task_are_refused():
    with pytest.raises(ConfigError, match="icl_tasks"):
        load_config(["icl_tasks_config.icl_tasks=[{label: x, dataset_uri: y, colour: red}]"])
