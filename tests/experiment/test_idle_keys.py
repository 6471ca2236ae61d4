"""A key that says nothing beside the others gets a note, and changes nothing."""

from __future__ import annotations

import json

import pytest
from key_cases import ADAM, ATTN, CASES, LLM, LR, MODEL, MPT, STEPS
from observers import observed, outer_step, rates, steps_of

import photon
from photon.config import load_config
from photon.config.explain.idle import RULES, idle_overrides
from photon.errors import PhotonNote

Example = tuple[str, tuple[str, ...], str]
"""A run, what holds beside, and an override that changes nothing there."""

EXAMPLES: tuple[Example, ...] = (
    ("federated", (), "llm_config.max_duration=40"),
    ("federated", (), "llm_config.eval_interval=5"),
    ("federated", (), "centralized.stream_id=1"),
    ("centralized", (STEPS,), "fl.n_rounds=5"),
    ("centralized", (STEPS,), "fl.compression=fp32"),
    ("centralized", (STEPS,), "compare.alone=true"),
    ("centralized", (STEPS,), "photon.restore_run_uuid=other"),
    ("node", (), "photon.restore_run_uuid=other"),
    ("centralized", (STEPS,), "photon.workers=2"),
    ("centralized", (STEPS,), "photon.step_seconds=0.01"),
    ("hosting", (), "photon.devices_per_client=2"),
    ("server", (), "photon.workers=2"),
    ("simulated", (), "photon.step_seconds=2"),
    ("federated", (), "photon.worker_timeout=3"),
    ("federated", (), "photon.n_nodes=3"),
    ("simulated", (), "photon.transport_url=s3://b"),
    ("server", (), "photon.transport_hosts=[a]"),
    ("server", (), "photon.transport_url=s3://b"),
    ("federated", (), "fl.round_timeout=3"),
    ("server", (), "fl.buffer=2"),
    ("federated", ("fl.overlap=delayed",), "fl.overlap_steps=9"),
    ("federated", ("fl.overlap_steps=0",), "fl.overlap=delayed"),
    ("federated", (), "fl.scoring.rows=5"),
    ("server", ("fl.mode=async",), "fl.straggler_factor=2"),
    ("server", (), "fl.straggler_factor=2"),
    ("server", (), "fl.staleness_exponent=0.5"),
    ("federated", ("fl.compression.upload=bf16",), "fl.fold_updates=true"),
    ("federated", (), "fl.secure_threshold=0.9"),
    ("federated", ("fl.secure_aggregation=true",), "fl.compression.upload=bf16"),
    ("federated", ("fl.aggregate_momenta=false",), "fl.second_moment_period=2"),
    ("federated", ("fl.compression.upload=bf16",), "fl.compression.residual_decay=0.5"),
    ("federated", ("fl.reset_checkpoint=true", "fl.aggregate_momenta=false"),
     "fl.compression.residual_decay=0.5"),
    ("federated", (), "fl.oversample=1"),
    ("server", ("fl.quorum=1",), "fl.max_staleness=2"),
    ("federated", (), "fl.privacy.noise_multiplier=2"),
    ("server", ("fl.privacy.clip_norm=1", "fl.compression.upload=bf16"),  # no two noises are alike
     "fl.max_norm_ratio=9"),
    ("federated", ("fl.n_clients_per_round=1",), "fl.use_noise_scale_metric=true"),
    ("federated", (), "fl.noise_scale_beta=0.5"),
    ("federated", (), "fl.random_init_freq=5"),
    ("federated", (), "fl.round_attempts=5"),
    ("federated", ("fl.ignore_failed_rounds=true",), "fl.failed_rounds=skip"),
    ("federated", (), "fl.outer_schedule.alpha_f=0.5"),
    ("federated", ("fl.eval_period=null",), "fl.split_eval=true"),
    ("federated", (), "photon.copy_client_checkpoints=false"),
    ("federated", (), "photon.restore_cent_run_batches=5"),
    ("federated", (), "photon.resume_round=-1"),
    ("federated", (), "compare.centralized_learning_rate=1"),
    ("federated", (), "compare.alone_learning_rate=1"),
    ("federated", (), "s3_comm_config.num_attempts=9"),
    ("federated", (), "wandb.setup.project=mine"),
    ("federated", ("use_wandb=true", "llm_config.loggers.wandb={init_kwargs: {project: a}}"),
     "wandb.setup.project=mine"),
    ("federated", (), "dataset.prepare.wrap=false"),
    ("federated", (), "dataset.embedded.seed=1"),
    ("federated", ("dataset.train.shuffle=false",), "dataset.train.shuffle_seed=1"),
    ("federated", (), "dataset.train.download_retry=9"),
    ("federated", (), "dataset.val.cache_limit=9gb"),
    ("federated", (f"{MODEL}.name=hf_causal_lm", f"{MODEL}.pretrained_model_name_or_path=x"),
     f"{ATTN}.kv_n_heads=9"),
    ("federated", (), f"{MODEL}.expansion_ratio=9"),
    ("federated", (MPT,), f"{ATTN}.rope_theta=9"),
    ("federated", (), f"{MODEL}.pretrained=false"),
    ("federated", (MPT,), f"{ATTN}.alibi_bias_max=9"),
    ("federated", (ADAM,), f"{LLM}.optimizer.momentum=0.5"),
    ("federated", (f"{LLM}.optimizer.name=sgd",), f"{LLM}.optimizer.betas=[0.1,0.1]"),
    ("federated", (), f"{LR}.t_cooldown=1"),
    ("federated", (), f"{LLM}.fsdp_config.sharding_strategy=NO_SHARD"),
    ("centralized", (STEPS,), f"{LLM}.fsdp_config.sharding_strategy=NO_SHARD"),
    ("federated", ("photon.devices_per_client=2",), f"{LLM}.fsdp_config.mixed_precision=DEFAULT"),
    ("federated", ("cleanup_checkpoints_per_round=true",),
     f"{LLM}.save_num_checkpoints_to_keep=5"),
    ("federated", (), "icl_tasks_config.limit=5"),
    ("federated", (), "eval_gauntlet_config.eval_gauntlet={categories: [{name: a, "
     "benchmarks: [{name: b, num_fewshot: 0}]}]}"),
    ("federated", (), "eval_gauntlet_config.destination_dir=x"),
)  # fmt: skip
"""Of each rule one, in their order."""
PAIRS = list(zip(RULES, EXAMPLES, strict=True))


@pytest.mark.parametrize(("rule", "example"), PAIRS, ids=[text for _, (_, _, text) in PAIRS])
def test_an_idle_key_gets_a_note_and_changes_nothing(rule, example, make, tmp_path, monkeypatch):
    run, beside, text = example
    name = () if "resume_round" in text else ("run_uuid=a",)
    config = make(*name, *beside, text)
    ((noted, why),) = idle_overrides(config, [*beside, text], run)
    assert (noted, why.split("=")[0]) == (text, rule.why.split("=")[0])
    assert "{" not in why
    observe = CASES.get(text.split("=")[0], (None,))[0]
    trains = observe in (steps_of, rates, outer_step) or getattr(
        observe, "__name__", ""
    ).startswith("served")
    if run == "federated" and trains and "hf_causal_lm" not in str(beside):
        before = observed(observe, make(*name, *beside), tmp_path, monkeypatch)
        assert observed(observe, config, tmp_path, monkeypatch) == before


@pytest.mark.parametrize(
    ("run", "keys"),
    [
        ("federated", ["fl.n_local_steps=64", "fl.overlap=delayed", "fl.overlap_steps=32"]),
        ("federated", ["llm_config.local_steps=1ep", "fl.overlap=delayed", "fl.overlap_steps=32"]),
        ("server", ["fl.quorum=1", "fl.staleness_exponent=0.5", "fl.straggler_factor=2"]),
        ("server", ["fl.failed_rounds=skip", "fl.staleness_exponent=0.5"]),
        ("server", ["fl.mode=async", "fl.staleness_exponent=0.7"]),
        ("federated", ["fl.n_clients_per_round=1", "fl.sampling=by_size"]),
        ("node", ["photon.transport_hosts=[a]", "photon.fewest_masked=2", "photon.workers=2",
                  "photon.worker_timeout=9", "photon.step_seconds=1",
                  "dataset.train.root_local=x"]),
        ("hosting", ["photon.workers=2", "photon.transport_hosts=[a]", "photon.transport=s3"]),
        ("federated", ["photon.devices_per_client=2", f"{LLM}.precision=amp_bf16",
                       f"{LLM}.fsdp_config.mixed_precision=DEFAULT"]),
    ],
)  # fmt: skip
def test_a_key_that_counts_gets_no_note(run, keys, make):
    assert not list(idle_overrides(make(*keys), keys, run))


def test_shards_of_several_processes_count(make, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    keys = [STEPS, f"{LLM}.fsdp_config.sharding_strategy=NO_SHARD"]
    assert not list(idle_overrides(make(*keys), keys, "centralized"))


def test_who_is_drawn_where_all_are_taken_is_no_matter(make):
    keys = ["fl.sampling=by_size"]
    ((_, why),) = idle_overrides(make(*keys), keys, "federated")
    assert why.startswith("every client is in the cohort")


def test_what_is_given_in_vain_is_said_where_a_run_starts(smoke, data_root, tmp_path):
    keys = ["recipe=smoke", f"dataset.train.root_local={data_root}",
            f"photon.saving_path={tmp_path}", "fl.n_rounds=1"]  # fmt: skip
    with pytest.warns(PhotonNote) as caught:
        photon.train([*keys, "run_uuid=r", "llm_config.max_duration=40ba"])
    assert [str(w.message) for w in caught] == [
        "llm_config.max_duration=40ba: has no effect here: a federation takes fl.n_rounds * "
        "llm_config.local_steps = 3 steps; max_duration is the length of a centralised run"
    ]
    facts = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert facts["federated"]["steps"] == 3
    config = load_config([*keys, "llm_config.max_duration=3ba"])
    assert not list(idle_overrides(config, ["llm_config.max_duration=3ba"], "federated")), (
        "what says the same needs no note"
    )
    said = list(
        idle_overrides(config, ["fl.noise_scale_beta=0.99", "~fl.outer_schedule"], "server")
    )
    assert not said, "a default, and what is deleted"
