"""An option of a group may be a file of one's own: `recipe=mine.yaml`."""

from __future__ import annotations

import pytest

from photon.config import load_config
from photon.config.explain.origin import annotated
from photon.errors import ConfigError


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a file in the current folder; its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "Mine.yaml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_recipe_sets_keys_of_every_section_and_a_key_counts_more(written):
    name = written("fl: {n_rounds: 7}\nllm_config: {optimizer: {lr: 1e-3}, local_steps: 3}\n")
    config = load_config(["llm_config.local_steps=5", f"recipe={name}"])
    assert config.federation.rounds == 7
    assert config.inner.optimizer.lr == 1e-3
    assert config.inner.local_steps == 5


def test_it_may_begin_with_one_that_is_there(written):
    name = written("defaults: [smoke, _self_]\nfl: {n_rounds: 9}\n")
    smoke = load_config(["recipe=smoke"])
    assert load_config([f"recipe={name}"]) == smoke.but(federation={"rounds": 9})


def test_the_file_of_a_model_has_the_keys_of_its_section(written):
    name = written("model: {d_model: 32, n_heads: 4}\n")
    assert load_config([f"llm_config={name}"]).inner.model.d_model == 32


def test_a_list_of_streams_is_one_of_either_split(written):
    name = written("- client_streams: {a: {local: client_3}}\n", "streams.yml")
    config = load_config([f"dataset/streams@dataset.train.streams={name}"])
    assert (
        config.model_dump(mode="json")["dataset"]["train"]["streams"]
        == (
            load_config(["dataset.train.streams=[{client_streams:{a:{local:client_3}}}]"])
        ).model_dump(mode="json")["dataset"]["train"]["streams"]
    )


def test_what_it_sets_is_said_to_come_from_it(written):
    name = written("fl: {n_rounds: 7}\n")
    assert f"  n_rounds: 7  # recipe={name}\n" in annotated([f"recipe={name}"])


def test_a_file_that_has_changed_is_read_again(written):
    assert load_config([f"recipe={written('seed: 1')}"]).seed == 1
    assert load_config([f"recipe={written('seed: 2')}"]).seed == 2


@pytest.mark.parametrize(("given", "text", "said"), [
    ("recipe=none.yaml", "", r"^recipe=none\.yaml: cannot be read \(No such file"),
    ("recipe=Mine.yaml", "fl: {", r"^recipe=Mine\.yaml: cannot be read \("),
    ("recipe=Mine.yaml", "seed: 1\nseed: 2", r"seed is there twice"),
    ("recipe=Mine.yaml", "- seed", r"^recipe=Mine\.yaml: must hold keys of recipe, got \['seed'\]"),
    ("dataset/streams@dataset.train.streams=Mine.yaml", "a: 1", r"must hold a list of clients'"),
    ("recipe=Mine.yaml", "seed: 2020-01-01", r"^seed: Input should be .*got '2020-01-01'$"),
    ("recipe=Mine.yaml", "1: 2", r"^1: is no key of the configuration$"),
    ("recipe=Mine.yaml", "defaults: 5", r"defaults list in 'recipe/Mine-\w+', defaults must be a"),
    ("recipe=Mine.yaml", "defaults: [smok]", r"'recipe/Mine-\w+': Could not load 'recipe/smok'"),
    ("icl_tasks_config=Mine.yaml",
     "[{label: a, dataset_uri: x, num_fewshot: [0], icl_task_type: schema, a: 1}]",
     r"^icl_tasks_config\.icl_tasks\.0\.a: is no key of the configuration$"),
    ("recipe=Mine.yaml", "fl: {n_round: 1}", r"^fl\.n_round: is no key .*mean 'fl\.n_rounds'\?$"),
])  # fmt: skip
def test_one_that_is_none_is_refused(written, given, text, said):
    written(text)
    with pytest.raises(ConfigError, match=said):
        load_config([given])
