"""Defaults run, overrides compose, mistakes are named, resume keeps the mathematics."""

from __future__ import annotations

import re

import pytest

from photon.config import load_config
from photon.config.between.resume import apply_resume_overrides, digest
from photon.config.compose import GROUPS, known_keys
from photon.config.explain.origin import explained
from photon.config.explain.reference import all_keys
from photon.config.faults import OTHER_NAMES
from photon.config.overrides import parse_override
from photon.config.resolve import resolve
from photon.errors import ConfigError, MismatchedCheckpoint
from photon.points import AGGREGATIONS

RECIPES = ["smoke", "quickstart"]


def resolved(*overrides: str, cores: int = 2, accelerator: bool = False):
    config = load_config(overrides)
    return resolve(config, cores=cores, accelerator=accelerator, run_uuid="r")


def test_defaults_and_groups_compose():
    config = load_config(["fl.n_rounds=3", "dataset=embedded-by-source"])
    assert config.federation.rounds == 3
    assert config.data.embedded.partition == "source"
    assert config.inner.name == "llama-tiny"


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_compose_and_overrides_win(recipe):
    config = load_config([f"recipe={recipe}", "fl.n_rounds=7"])
    assert config.federation.rounds == 7
    assert resolve(config, cores=2, accelerator=False, run_uuid="r").name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fl.n_round=3", "unknown key 'fl.n_round'; did you mean 'fl.n_rounds'?"),
        ("lr=0.1", "did you mean 'llm_config.optimizer.lr'?"),
        ("recip=smoke", "did you mean 'recipe'?"),
        ("local_steps=4", "did you mean 'llm_config.local_steps'?"),
        ("fl.local_steps=4", "did you mean 'llm_config.local_steps'?"),
        ("fl.eval_interval=4", "did you mean 'fl.eval_period'?"),
        ("llm_confg.optimizer.lr=1", "did you mean 'llm_config.optimizer.lr'?"),
        ("dataset.vocab_size=512", "did you mean 'dataset.prepare.vocab_size'?"),
        ("learning_rate=0.1", "did you mean 'llm_config.optimizer.lr'?"),
        ("llm_config.optimizer.learning_rate=0.1", "did you mean 'llm_config.optimizer.lr'?"),
        ("vocab_size=512", "did you mean 'llm_config.model.vocab_size'?"),
        ("optimizer.name=muon", "did you mean 'llm_config.optimizer.name'?"),
        ("llm_config.scheduler.name=x", "mean 'llm_config.scheduler.schedulers.lr.name'?"),
        ("zzz=1", "^unknown key 'zzz'; `photon config --keys` lists all keys$"),
        (
            "llm_config=mpt125m",
            "option llm_config=mpt125m; did you mean 'mpt-125m'. there are",
        ),
        ("recipe=smok", "option recipe=smok; did you mean 'smoke'. there are: quickstart, smoke"),
        ("++fl.n_clients=3", "unknown key 'fl.n_clients'"),
        ("~fl.n_clients", "unknown key 'fl.n_clients'"),
        ("llm_config.optimizer.lr=fast", "llm_config.optimizer.lr: Input should be a valid number"),
        ("llm_config.optimizer.lr=-1", "llm_config.optimizer.lr: .*greater than 0"),
        ("llm_config.optimizer.lr=nan", "llm_config.optimizer.lr: .*finite"),
        ("fl.n_rounds=2.5", "fl.n_rounds: Input should be a valid integer"),
        ("fl.privacy.clip_norm=true", "fl.privacy.clip_norm: expected a number, got true"),
        ("fl.n_rounds=true", "fl.n_rounds: expected a number, got true"),
        ("fl.scoring=true", "fl.scoring: is a section, .*`photon config fl.scoring` lists them"),
        ("fl.aggregation=null", "fl.aggregation: .* got null$"),
        ("fl.n_rounds=0", "fl.n_rounds: .*greater than or equal to 1"),
        ("fl.privacy.noise_multiplier=1e-300", "fl.privacy.noise_multiplier: .*greater than"),
        ("fl.privacy.noise_multiplier=1e300", "fl.privacy.noise_multiplier: .*less than"),
        ("fl.privacy.clip_norm=1e-320", "fl.privacy.clip_norm: .*greater than"),
        ("fl.privacy.clip_norm=1e39", "fl.privacy.clip_norm: .*less than"),
        ("fl.strategy_name=fedsgd", "unknown strategy 'fedsgd'; known: FEDAVG.*module:function$"),
        ("fl.strategy_kwargs.eta=1", "eta is no argument of NESTEROV; it takes server_learning"),
        ("fl.n_clients_per_round=9", "n_clients_per_round=9 is more than n_total_clients=8"),
        ("fl.quorum=9", "^fl.quorum=9 is more than the cohort of 8"),
        ("llm_config.local_steps=2sec", "durations are, for example"),
        ("llm_config.model.n_heads=5", "d_model=96 must be a multiple of n_heads=5"),
        ("llm_config.optimizer.betas=[1.0,0.9]", "betas"),
        ("centralized.stream_id=8", "names no client"),
        ("llm_config=llama-huge", "no such option llm_config=llama-huge; there are: llama-125m"),
        ("run_uuid=../escape", "run_uuid"),
        ("llm_config.compile=fast", "^llm_config.compile: .*boolean, .*, or 'auto' or 'whole'"),
        ("llm_config.optimizer.betas=3", r"betas: give two numbers, as in \[0.9,0.95\], got 3$"),
        ("fl.compression=int5", "^fl.compression: unknown codec 'int5'; known: "),
        ("dataset.train.root_remote=/x", "^dataset.train.root_remote: give s3://BUCKET/PREFIX or"),
        ("wandb.setup.project=a/b", "^wandb.setup.project: is a name without any of"),
        ("photon.saving_path=", "^photon.saving_path: is empty; name a folder"),
        ("s3_comm_config.bucket_name=", "^s3_comm_config.bucket_name: is empty; give bucket or"),
        ("llm_config.global_train_batch_size=10000000000000", "must be at most 16777216, got 100"),
        ("llm_config.global_train_batch_size=16777216", "more than the 268435456 tokens of one"),
        ("llm_config.local_steps=9999999999999999999", "must be at most 10000000, got 999999999"),
        ("llm_config.local_steps=99999999999tok", "local_steps: must be at most 10000000, got 19"),
        ("fl.n_local_steps=99999999", "fl.n_local_steps: must be at most 10000000, got 99999999"),
        (
            "llm_config.model.n_layers=100000000",
            "llm_config.model.n_layers: must be at most 1024, got",
        ),
        ("llm_config.model.vocab_size=99999999", "vocab_size: must be at most 16777216"),
        ("fl.n_total_clients=100000000", "fl.n_total_clients: must be at most 250000, got"),
        ("fl.n_rounds=99999999999999999999999", "fl.n_rounds: must be at most 10000000, got 999"),
        ("seed=99999999999999999999999", "^seed: must be at most 9007199254740992, got 99999"),
        ("dataset.train.shuffle_seed=-99999999999999999999999", "must be at least -90071992547409"),
        ("not an override", "is no override"),
    ],
)
def test_mistakes_are_named_in_one_line(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config([override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["fl.reset_optimizer=true", "llm_config.optimizer.name=sgd"])
def test_moments_are_averaged_unless_there_are_none(key):
    assert load_config([]).averaging().averages_moments
    assert not load_config([key]).averaging().averages_moments
    with pytest.raises(ConfigError, match="aggregate_momenta=true"):
        load_config([key, "fl.aggregate_momenta=true"])


@pytest.mark.parametrize("name", ["NESTOROV", "nesterov", "Nestorov"])
def test_strategy_names_in_any_case_and_the_original_spelling(name):
    assert load_config([f"fl.strategy_name={name}"]).federation.outer_name == "NESTEROV"


def test_strategy_arguments_have_defaults():
    given = load_config(["fl.strategy_kwargs.server_momentum=0.9"]).federation.outer_arguments
    assert given == {"server_learning_rate": 0.7, "server_momentum": 0.9}
    assert load_config(["fl.strategy_name=fedavg"]).federation.outer_arguments == {
        "server_learning_rate": 1.0
    }


def test_durations_are_batches():
    config = load_config(["llm_config.local_steps=1_280ba"])
    assert config.inner.local_steps == 1280


def test_deleting_a_key_turns_it_off():
    config = load_config(["~llm_config.algorithms.gradient_clipping"])
    assert config.inner.algorithms.gradient_clipping is None


def test_a_value_may_have_letters_beyond_ascii():
    assert load_config(["photon.saving_path=/tmp/dö x/r"]).machine.runs_folder == "/tmp/dö x/r"
    with pytest.raises(ConfigError, match=r"^run_uuid: is made of letters a-z.*got 'mü'$"):
        load_config(["run_uuid=mü"])


def test_every_leaf_has_a_description():
    undescribed = [one.key for one in all_keys() if not one.meaning]
    fixed = {"llm_config.scheduler.schedulers.lr.name"}
    assert set(undescribed) <= fixed | {
        "llm_config.algorithms.gradient_clipping.clipping_type",
    }
    assert "fl.strategy_kwargs.server_momentum" in set(known_keys())


def test_resolving_fills_in_what_the_result_depends_on():
    config = resolved("fl.n_rounds=5", "llm_config.local_steps=20")
    schedule = config.inner.schedules.schedulers.lr
    assert (schedule.t_max, schedule.t_warmup) == (100, 10)
    assert config.inner.max_steps == 100
    assert (config.machine.workers, config.machine.threads) == (2, 1)
    assert config.inner.compile is False
    assert config.inner.model.max_positions == 128
    assert config.name == "r"


def test_resolving_by_machine():
    assert resolved(cores=1).machine.workers == 0
    assert resolved(cores=8, accelerator=True).machine.workers == 0
    assert resolved("fl.n_total_clients=3", cores=8).machine.workers == 3
    assert resolved("photon.workers=0", cores=8).machine.threads == 8


@pytest.mark.parametrize("key", ["photon.threads", "photon.workers"])
@pytest.mark.parametrize("number", [-1, 1025, 100_000])
def test_that_no_more_threads_or_workers_are_asked_for_than_a_machine_bears(key, number):
    with pytest.raises(ConfigError, match=rf"{key}.*must be 0 to 1024"):
        load_config([f"{key}={number}"])


def test_warmup_longer_than_the_schedule_is_refused():
    with pytest.raises(ConfigError, match=r"t_warmup=50 is more than t_max=10"):
        resolved(
            "llm_config.scheduler.schedulers.lr.t_warmup=50ba",
            "llm_config.scheduler.schedulers.lr.t_max=10ba",
        )


def test_resume_takes_what_leaves_the_mathematics_alone():
    saved = resolved("fl.n_rounds=5")
    changed = apply_resume_overrides(
        saved, ["fl.n_rounds=9", "photon.workers=0", "fl.eval_period=1", "compare.alone=true"]
    )
    assert changed.federation.rounds == 9
    before, after = (c.inner.schedules.schedulers.lr for c in (saved, changed))
    assert after == before, "the schedule belongs to the run as it was started"
    assert changed.inner.max_steps == 9 * 16
    assert digest(changed.values_by_key()) == digest(saved.values_by_key())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fl.n_rounds=4", "fl.n_rounds: may only be raised"),
        ("llm_config.model.n_layers=4", "llm_config.model.n_layers: may not change"),
        ("llm_config.optimizer.lr=0.1", "llm_config.optimizer.lr: may not change"),
        ("llm_config.optimizer.name=adamw", "llm_config.optimizer.name: may not change"),
        ("fl.strategy_name=fedavg", "fl.strategy_name: may not change"),
        ("fl.quorum=99", "fl.quorum: may not change"),
        ("fl.compression=fp32", "fl.compression.upload: may not change"),
        ("fl.compression.download=bf16", "fl.compression.download: may not change"),
        ("seed=1", "seed: may not change"),
        ("llm_config=llama-tiny", "key=value overrides only"),
    ],
)
def test_resume_refuses_what_changes_the_mathematics(override, message):
    with pytest.raises(MismatchedCheckpoint, match=message):
        apply_resume_overrides(resolved("fl.n_rounds=5"), [override])


def test_a_name_alone_is_that_of_all_that_it_can_be_of():
    """Of 16 bits or more, parameters come whole."""
    for given, expected in {
        "bf16": ("bf16", "bf16", "fp32"),
        "fp32": ("fp32", "fp32", "fp32"),
        "int4:32": ("int4:32", "int4:32", "int4:32"),
    }.items():
        found = load_config(["recipe=smoke", f"fl.compression={given}"]).federation.compression
        assert (found.upload, found.moments, found.download) == expected
    keys = ["fl.compression=int8", "fl.compression.download=fp32"]
    found = load_config(["recipe=smoke", *keys]).federation.compression
    assert (found.upload, found.moments, found.download) == ("int8", "int8", "fp32")


def test_a_fold_of_what_a_codec_loses_is_refused():
    """By itself too, beside the default; what it then names is taken."""
    fold = ["recipe=smoke", "fl.fold_updates=true"]
    needed = "fl.compression.upload=bf16"
    for upload, beside in (("int4", []), ("int2", ["fl.compression.upload=int2"])):
        with pytest.raises(ConfigError) as caught:
            load_config([*fold, *beside])
        assert str(caught.value).startswith(
            f"fl.fold_updates=true needs {needed} beside it, in place of {upload}: "
        )
    assert load_config([*fold, needed]).federation.compression.moments == "int8"


@pytest.mark.parametrize("aggregation", [name for name in AGGREGATIONS if name != "mean"])
@pytest.mark.parametrize(
    ("beside", "why"),
    [
        (["fl.scaling_fn=sqrt"], "scaling_fn=sqrt exclude each other"),
        (["fl.fold_updates=true", "fl.compression.upload=bf16"], "fold_updates=true and aggr"),
    ],
)
def test_an_aggregation_beside_what_spoils_it_is_refused(aggregation, beside, why):
    keys = ["recipe=smoke", f"fl.aggregation={aggregation}"]
    load_config(keys)
    with pytest.raises(ConfigError, match=why) as caught:
        load_config([*keys, *beside])
    assert "\n" not in str(caught.value)


def test_an_unknown_aggregation_is_named():
    with pytest.raises(ConfigError, match="unknown aggregation 'middle'; known: mean, rda, normed"):
        load_config(["fl.aggregation=middle"])


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("krum:25/50/3", "expected krum:bad/kept, whole numbers from 1"),
        ("krum:half", "expected krum:bad/kept, whole numbers from 1"),
        ("trimmed_mean:50", "cut is 50, at most 49"),
        ("trimmed_mean:0", "expected trimmed_mean:cut, whole numbers from 1"),
        ("median:3", "expected median alone"),
    ],
)
def test_what_an_aggregation_does_not_take_is_refused_in_a_line(given, why):
    with pytest.raises(ConfigError, match=why) as caught:
        load_config([f"fl.aggregation={given}"])
    assert str(caught.value).startswith(f"fl.aggregation: aggregation '{given}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "short", "same", "other"),
    [
        ("fl.compression.upload", "int4", "int4:64", "int4:32"),
        ("fl.compression.upload", "topk:64", "topk:64/4096", "topk:64/1024"),
        ("fl.aggregation", "centred_clip:50", "centred_clip:50/10", "centred_clip:50/3"),
    ],
)
def test_resume_takes_a_default_argument_that_is_written_out(key, short, same, other):
    before = resolved(f"{key}={short}")
    assert digest(apply_resume_overrides(before, [f"{key}={same}"]).values_by_key()) == digest(
        before.values_by_key()
    )
    with pytest.raises(MismatchedCheckpoint, match=f"{key}: may not change"):
        apply_resume_overrides(before, [f"{key}={other}"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("fl.strategy_kwargs.a.b=1", "fl.strategy_kwargs.a: Input should be a valid number"),
        ("llm_config.model.config_overrides.a.b=1", "config_overrides.a.b: may not change"),
    ],
)
def test_resume_refuses_keys_below_those_of_somebody_else(key, message):
    with pytest.raises((ConfigError, MismatchedCheckpoint), match=message) as caught:
        apply_resume_overrides(resolved(), [key])
    assert "\n" not in str(caught.value)


def test_resume_names_unknown_keys_too():
    with pytest.raises(ConfigError, match=r"did you mean 'fl.n_rounds'"):
        apply_resume_overrides(resolved(), ["fl.rounds=9"])


def test_digest_follows_the_mathematics():
    def of(*overrides: str) -> str:
        return digest(resolved(*overrides).values_by_key())

    assert of("photon.saving_path=/elsewhere", "fl.eval_period=2") == of()
    assert of("llm_config.optimizer.lr=0.001") != of()


@pytest.mark.parametrize("name", ["1e5", "1000", "true", "007", "0x10", "1_000", "none", "nan"])
def test_a_name_is_text(name):
    assert load_config([f"run_uuid={name}"]).name == name
    assert parse_override(f"run_uuid={name}").value() == name


@pytest.mark.parametrize(
    "text", ["[STOP]", "{end}", "a,b", "it's", 'say "x"', "back\\", '\\"', "x=y", " a ", "€", "<s>"]
)
def test_a_text_is_taken_as_it_is_given(text):
    assert load_config([f"dataset.prepare.eos_text={text}"]).data.prepare.eos_text == text
    assert parse_override(f"dataset.prepare.eos_text={text}").value() == text


def test_a_text_may_name_another_key():
    assert load_config(["photon.saving_path=a/${seed}"]).machine.runs_folder == "a/1337"


def test_null_is_no_text_unless_it_is_quoted():
    for text, found in (("null", None), ("'null'", "null"), ('"1e5"', "1e5")):
        assert load_config([f"dataset.prepare.name={text}"]).data.prepare.name == found


def test_every_other_name_is_of_a_key_that_exists_and_of_none_that_does():
    known = {*known_keys(), *GROUPS}
    assert set(OTHER_NAMES.values()) <= known
    assert not known & set(OTHER_NAMES)


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("federation.rounds", "fl.n_rounds"),
        ("fl.population", "fl.n_total_clients"),
        ("inner.model.max_positions", "llm_config.model.max_seq_len"),
        ("data.validation.root", "dataset.val.root_local"),
    ],
)
def test_a_name_of_the_code_is_answered_with_its_key(written, key):
    with pytest.raises(ConfigError, match=f"did you mean '{re.escape(key)}'"):
        load_config([f"{written}=3"])


def test_a_codec_with_a_colon_and_no_numbers_is_refused():
    with pytest.raises(ConfigError, match=r"codec 'int4:': expected int4:block"):
        load_config(["recipe=smoke", "fl.compression.upload=int4:"])


def test_aggregations_are_explained_with_what_they_withstand_and_exclude():
    shown = explained("fl.aggregation", [])
    assert all(
        f"    {name}" in shown and one.withstands in shown for name, one in AGGREGATIONS.items()
    )
    assert "krum:25/50 " in shown
    assert "fl.fold_updates: the mean that" in shown


@pytest.mark.parametrize("key", ["upload", "download", "moments"])
def test_the_keys_of_codecs_are_explained_with_the_rungs(key):
    assert "signs, a mean size a block" in explained(f"fl.compression.{key}", [])
    assert "signs" not in explained("fl.compression.residual_decay", [])
