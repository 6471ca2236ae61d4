"""Keys of an evaluation: files of tasks, presets, and single keys over both."""

from __future__ import annotations

import pytest

from photon.config import load_config
from photon.config.between.resume import apply_evaluation_overrides
from photon.errors import ConfigError

FILE = "icl_tasks: []\nroot_dir: from_file\nlimit: 100\n"


def found(*overrides):
    return apply_evaluation_overrides(load_config(), overrides)


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_a_file_is_one_however_its_section_is_written(tasks, sign):
    assert found(f"{sign}icl_tasks_config={tasks}").scoring.folder == "from_file"


def test_a_key_whose_text_ends_like_that_of_a_file_is_none():
    key = "eval_gauntlet_config.destination_dir"
    assert found(f"{key}=out.yml").composites.destination_dir == "out.yml"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_key_counts_more_than_what_is_in_a_file(tasks, is_first):
    keys = [f"icl_tasks_config={tasks}", "icl_tasks_config.limit=5"]
    scoring = found(*(keys[::-1] if is_first else keys)).scoring
    assert (scoring.limit, scoring.folder) == (5, "from_file")


def test_a_key_counts_more_than_a_preset_and_may_be_left_out():
    keys = ["icl_tasks_config.limit=5", "~icl_tasks_config.icl_tasks"]
    scoring = found("icl_tasks_config=light", *keys).scoring
    assert (scoring.limit, scoring.tasks) == (5, None)


TASK = "{{label: {}, dataset_uri: x, icl_task_type: schema, num_fewshot: {}}}"
CATEGORY = "{{name: {}, benchmarks: [{{name: x, num_fewshot: 0}}]}}"


@pytest.mark.parametrize("counts", [("0", "[1,0]"), ("[0,0]", "1")])
def test_two_scores_of_one_name_are_refused(counts):
    tasks = ",".join(TASK.format("a", count) for count in counts)
    with pytest.raises(ConfigError, match=r"^icl_tasks_config.icl_tasks has a/0-shot twice; "):
        load_config([f"icl_tasks_config.icl_tasks=[{tasks}]"])
    load_config([f"icl_tasks_config.icl_tasks=[{TASK.format('a', 0)},{TASK.format('a', 1)}]"])


def test_two_composites_of_one_name_are_refused():
    key = "eval_gauntlet_config.eval_gauntlet.categories"
    with pytest.raises(ConfigError, match=f"^{key} has a twice; "):
        load_config([f"{key}=[{CATEGORY.format('a')},{CATEGORY.format('a')}]"])
    load_config([f"{key}=[{CATEGORY.format('a')},{CATEGORY.format('b')}]"])


def test_a_key_of_a_composite_that_is_not_there_is_told_what_it_lacks():
    key = "eval_gauntlet_config.eval_gauntlet"
    with pytest.raises(ConfigError, match=f"^{key}.categories: Field required"):
        found(f"{key}.weighting=EQUAL")


@pytest.mark.parametrize("key", ["llm_config=llama-125m", "seed=3", "~fl.quorum", "dataset=x"])
def test_what_is_not_of_an_evaluation_is_refused(key):
    with pytest.raises(ConfigError, match="does not belong to an evaluation"):
        found(key)


def test_a_deletion_is_null_as_in_training():
    saved = load_config().but(data={"validation": {"root": "data"}})
    changed = apply_evaluation_overrides(saved, ["~dataset.val.root_local"])
    assert changed.data.validation.root is None
    with pytest.raises(
        ConfigError, match=r"^photon.device: Input should be a valid string, got null"
    ):
        found("~photon.device")


@pytest.mark.parametrize(
    "key", ["icl_tasks_config.max_batch_tokens", "llm_config.device_train_microbatch_size"]
)
def test_a_number_that_may_be_auto_is_one_or_more(key):
    with pytest.raises(ConfigError, match=rf"{key}: must be 1 or more, or auto, got 0"):
        load_config([f"{key}=0"])
