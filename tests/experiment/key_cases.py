"""Of every key two values and what observes that they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from observers import (
    begins,
    central,
    closes,
    cohort,
    forward_passes,
    outer_step,
    paced,
    privately,
    rates,
    recomputed,
    record,
    served,
    soundly,
    steps_of,
    waits,
    with_one_larger,
    with_one_late,
    with_one_missing,
    with_one_too_large,
)
from surroundings import (
    blocks,
    board,
    carrier,
    job,
    lands,
    mirror,
    pool,
    prepared,
    reads,
    refusal,
    sharding,
    store,
    told_wandb,
    unigram,
    wanted_of_hub,
    watched,
)

LR, LLM, MODEL, ATTN = (
    "llm_config.scheduler.schedulers.lr", "llm_config", "llm_config.model",
    "llm_config.model.attn_config",
)  # fmt: skip
MPT = f"{MODEL}.name=mpt_causal_lm"
ADAM, MUON = f"{LLM}.optimizer.name=adamw", f"{LLM}.optimizer.name=muon"
LINEAR = f"{LR}.name=constant_with_linear_cooldown_with_warmup"
SCHEDULE = (f"{LR}.t_warmup=2", f"{LR}.t_max=6")
ROUNDS = ("fl.n_rounds=4", "fl.strategy_name=fedavg")
FOUR = ("fl.n_total_clients=4", "fl.n_clients_per_round=2")
RANDOM = ("fl.random_layers=[norm.weight,embedding.weight]", "fl.random_init_freq=3")
LATE = ("fl.quorum=1", "fl.n_rounds=4")
TWICE = ("fl.n_rounds=2", "fl.eval_period=1")
STORE = ("dataset.train.root_remote=file:///tmp", "dataset.train.root_local=/tmp/x")
VAL_STORE = ("dataset.val.root_remote=file:///tmp", "dataset.val.root_local=/tmp/x")
PRIVATE = ("fl.aggregate_momenta=false", "fl.compression.upload=bf16", "fl.privacy.clip_norm=1")
SCALED = "fl.compression.upload=bf16"
"""Updates whose numbers can be multiplied as they are sent."""
STEPS = f"{LLM}.max_duration=4"
GIVEN = (f"{LLM}.max_duration=4", f"{LLM}.local_steps=2")
STREAM = "[{client_streams: {s: {local: client_1}}}, {client_streams: {s: {local: client_0}}}]"

CORPUS = "dataset.embedded.max_bytes=100000"
PREPARE = "dataset.prepare"
TRAINED = ("dataset.prepare.tokenizer=null", "dataset.prepare.vocab_size=265")
TEXTS = (f"{PREPARE}.source=texts", f"{PREPARE}.tokenizer=tokenizer.json")
SETUP = (("project", "other"), ("group", "other"), ("tags", "[a]"), ("entity", "us"),
         ("mode", "disabled"), ("name", "n"), ("id", "i"), ("resume", "must"),
         ("allow_val_change", "false"))  # fmt: skip
LOGGER = "llm_config.loggers.wandb={init_kwargs: {project: photon}}"
CLIENT = "s3_comm_config.backend_kwargs.client_config"
MIRROR = ("s3_comm_config.bucket_name=file:///tmp/mirror", f"{CLIENT}.read_timeout=60")
TASKS = ("[{label: pick, dataset_uri: pick.jsonl, icl_task_type: multiple_choice, num_fewshot: 0},"
         "{label: turn, dataset_uri: turn.jsonl, icl_task_type: schema, num_fewshot: 1,"
         " prelimiter: 'R:'}]")  # fmt: skip
WATCHED = (f"icl_tasks_config.icl_tasks={TASKS}", "icl_tasks_config.root_dir=.")
GAUNTLET = "eval_gauntlet_config.eval_gauntlet"
COMPOSITE = ("{rescale_accuracy: false, categories: [{name: one, benchmarks: ["
             "{name: pick, num_fewshot: 0, random_baseline: 0.25},"
             "{name: turn, num_fewshot: 1, random_baseline: 0.5}]}]}")  # fmt: skip

Case = tuple[Callable[..., Any], tuple[str, ...], str]
"""What observes, what holds beside, and the value whose effect is looked for."""

sound, missing, late, larger, too_large = (
    served(spoil)
    for spoil in (soundly, with_one_missing, with_one_late, with_one_larger, with_one_too_large)
)

CASES: dict[str, Case] = {
    "seed": (record, TWICE, "7"),
    "cleanup_checkpoints": (record, TWICE, "true"),
    "cleanup_checkpoints_per_round": (record, TWICE, "true"),
    "photon.workers": (pool, (), "2"),
    "photon.threads": (pool, (), "2"),
    "photon.devices_per_client": (pool, ("photon.workers=1", "photon.threads=auto"), "2"),
    "photon.worker_timeout": (pool, ("photon.workers=1",), "5"),
    "photon.step_seconds": (paced, ("fl.n_rounds=1",), "1000"),
    "photon.refresh_period": (pool, ("photon.workers=1",), "2"),
    "photon.device": (refusal, ("fl.n_rounds=1",), "cuda:99"),
    "photon.transport": (carrier, (), "shm"),
    "photon.n_nodes": (waits, (), "3"),
    "photon.join_timeout": (waits, ("photon.n_nodes=3",), "5"),
    "fl.n_total_clients": (cohort, (), "4"),
    "fl.n_clients_per_round": (cohort, FOUR, "3"),
    "fl.sampling": (cohort, FOUR, "by_size"),
    "fl.availability": (cohort, FOUR, "0.3"),
    "fl.oversample": (cohort, FOUR, "1"),
    "fl.mode": (record, TWICE, "async"),
    "fl.buffer": (record, (*TWICE, "fl.mode=async"), "1"),
    "fl.steps_by_speed": (cohort, ("fl.n_total_clients=4",), "true"),
    "fl.n_local_epochs": (cohort, ("fl.n_total_clients=4",), "1"),
    "fl.n_local_steps": (record, TWICE, "2"),
    "fl.n_rounds": (record, ("fl.eval_period=1",), "3"),
    "fl.strategy_name": (outer_step, ROUNDS, "nesterov"),
    "fl.strategy_kwargs.server_learning_rate": (outer_step, ROUNDS, "0.3"),
    "fl.strategy_kwargs.server_momentum": (outer_step, ("fl.strategy_name=fedmom",), "0.3"),
    "fl.strategy_kwargs.eta": (outer_step, ("fl.strategy_name=fedadam",), "0.3"),
    "fl.strategy_kwargs.beta_1": (outer_step, ("fl.strategy_name=fedadam",), "0.3"),
    "fl.strategy_kwargs.beta_2": (outer_step, ("fl.strategy_name=fedyogi",), "0.3"),
    "fl.strategy_kwargs.tau": (outer_step, ("fl.strategy_name=fedadagrad",), "0.3"),
    "fl.outer_schedule.name": (outer_step, ROUNDS, "linear"),
    "fl.outer_schedule.t_warmup": (outer_step, ROUNDS, "2"),
    "fl.outer_schedule.t_max": (
        outer_step, (*ROUNDS, "fl.outer_schedule.name=cosine"), "2",
    ),
    "fl.outer_schedule.alpha_f": (
        outer_step, (*ROUNDS, "fl.outer_schedule.name=cosine"), "0.5",
    ),
    "fl.ema_decay": (outer_step, ROUNDS, "0.5"),
    "fl.aggregate_momenta": (record, TWICE, "false"),
    "fl.compression.upload": (record, TWICE, "int2"),
    "fl.compression.download": (record, TWICE, "int2"),
    "fl.compression.moments": (record, TWICE, "fp32"),
    "fl.compression.residual_decay": (record, (*TWICE, "fl.compression.upload=int2"), "0"),
    "fl.first_moment_period": (record, TWICE, "2"),
    "fl.second_moment_period": (record, TWICE, "2"),
    "fl.overlap": (record, TWICE, "eager"),
    "fl.overlap_steps": (record, (*TWICE, "fl.overlap=delayed"), "1"),
    "fl.fragments": (record, TWICE, "2"),
    "fl.fragment_alpha": (record, TWICE, "0.5"),
    "fl.personalized_layers": (record, TWICE, "[norm.weight]"),
    "fl.resize_vocab": (record, TWICE, "310"),
    "fl.frozen_layers": (record, TWICE, "[norm.weight]"),
    "fl.unfrozen_layers": (record, TWICE, "[norm.weight]"),
    "fl.reset_optimizer": (begins, ("fl.aggregate_momenta=false",), "true"),
    "fl.reset_dataset_state": (begins, (), "true"),
    "fl.reset_timestamp": (begins, (), "true"),
    "fl.reset_checkpoint": (begins, ("fl.aggregate_momenta=false",), "true"),
    "fl.random_layers": (sound, (*RANDOM[1:], "fl.n_rounds=3"), "[embedding.weight]"),
    "fl.random_init_freq": (sound, (RANDOM[0], "fl.random_init_freq=100", "fl.n_rounds=3"), "3"),
    "fl.truly_random_init": (sound, (*RANDOM, "fl.n_rounds=3"), "false"),
    "fl.aggregation": (record, TWICE, "rda"),
    "fl.privacy.clip_norm": (privately, PRIVATE[:1], "1"),
    "fl.privacy.noise_multiplier": (privately, PRIVATE, "2"),
    "fl.privacy.noise_by": (privately, PRIVATE, "clients"),
    "fl.privacy.delta": (privately, PRIVATE, "0.001"),
    "fl.privacy.max_epsilon": (privately, PRIVATE, "5"),
    "fl.scaling_fn": (sound, (), "sqrt"),
    "fl.quorum": (missing, (), "1"),
    "fl.accept_failures_cnt": (missing, (), "1"),
    "fl.staleness_exponent": (late, LATE, "0.5"),
    "fl.max_staleness": (late, (*LATE, "fl.staleness_exponent=1"), "2"),
    "fl.max_norm_ratio": (larger, ("fl.n_rounds=3", SCALED), "2"),
    "fl.max_reach": (too_large, (SCALED,), "1e6"),
    "fl.ignore_failed_rounds": (missing, (), "true"),
    "fl.failed_rounds": (missing, (), "retry"),
    "fl.round_attempts": (missing, ("fl.failed_rounds=retry",), "2"),
    "fl.round_timeout": (closes, ("fl.quorum=1",), "30"),
    "fl.round_timeout_min": (closes, ("fl.quorum=1",), "90"),
    "fl.straggler_factor": (closes, ("fl.quorum=1", "fl.round_timeout_min=0"), "50"),
    "fl.eval_period": (record, ("fl.n_rounds=2",), "null"),
    "fl.split_eval": (record, TWICE, "true"),
    "fl.use_noise_scale_metric": (record, TWICE, "true"),
    "fl.noise_scale_beta": (record, (*TWICE, "fl.use_noise_scale_metric=true"), "0.1"),
    "fl.use_unigram_metrics": (record, TWICE, "true"),
    "fl.allow_unigram_metrics_failures": (unigram, (), "true"),
    "fl.log_layer_norms": (record, TWICE, "true"),
    "llm_config.max_seq_len": (record, TWICE, "16"),
    "llm_config.precision": (steps_of, (), "amp_bf16"),
    "llm_config.z_loss": (steps_of, (), "0.01"),
    "llm_config.max_logits_bytes": (steps_of, (), "2000"),
    "llm_config.local_steps": (record, TWICE, "2"),
    "llm_config.max_duration": (central, (STEPS,), "3"),
    "llm_config.global_train_batch_size": (steps_of, (), "4"),
    f"{LLM}.device_train_microbatch_size": (job, (f"{LLM}.global_train_batch_size=8",), "2"),
    "llm_config.device_eval_batch_size": (forward_passes, (), "1"),
    "llm_config.eval_subset_num_batches": (forward_passes, (), "1"),
    "llm_config.eval_first": (record, TWICE, "true"),
    "llm_config.eval_interval": (central, (STEPS,), "2"),
    "llm_config.save_interval": (central, (STEPS, "llm_config.save_interval=4"), "1"),
    "llm_config.save_num_checkpoints_to_keep": (record, TWICE, "1"),
    f"{MODEL}.name": (steps_of, (), "mpt_causal_lm"),
    f"{MODEL}.d_model": (steps_of, (), "32"),
    f"{MODEL}.n_heads": (steps_of, (), "4"),
    f"{MODEL}.n_layers": (steps_of, (), "2"),
    f"{MODEL}.vocab_size": (steps_of, (), "301"),
    f"{MODEL}.max_seq_len": (steps_of, (MPT,), "64"),
    f"{MODEL}.expansion_ratio": (steps_of, (MPT,), "2"),
    f"{MODEL}.ffn_hidden_size": (steps_of, (), "48"),
    f"{MODEL}.ffn_act": (steps_of, (MPT,), "gelu_tanh"),
    f"{MODEL}.no_bias": (steps_of, (MPT,), "true"),
    f"{MODEL}.tie_word_embeddings": (steps_of, (), "false"),
    f"{MODEL}.norm_eps": (steps_of, (), "0.1"),
    f"{MODEL}.init_std": (steps_of, (), "0.1"),
    f"{ATTN}.attn_impl": (steps_of, (), "torch"),
    f"{ATTN}.alibi": (steps_of, (MPT,), "true"),
    f"{ATTN}.alibi_bias_max": (steps_of, (MPT, f"{ATTN}.alibi=true"), "2"),
    f"{ATTN}.kv_n_heads": (steps_of, (), "1"),
    f"{ATTN}.qk_norm": (steps_of, (), "true"),
    f"{ATTN}.rope_theta": (steps_of, (), "10"),
    f"{LLM}.optimizer.name": (steps_of, (ADAM,), "sgd"),
    f"{LLM}.optimizer.lr": (steps_of, (), "0.1"),
    f"{LLM}.optimizer.betas": (steps_of, (ADAM,), "[0.5,0.6]"),
    f"{LLM}.optimizer.eps": (steps_of, (ADAM,), "0.01"),
    f"{LLM}.optimizer.momentum": (steps_of, (MUON,), "0.1"),
    f"{LLM}.optimizer.weight_decay": (steps_of, (), "0.5"),
    f"{LR}.name": (rates, SCHEDULE, "constant_with_sqrt_cooldown_with_warmup"),
    f"{LR}.t_warmup": (rates, SCHEDULE, "3"),
    f"{LR}.t_max": (rates, SCHEDULE, "7"),
    f"{LR}.t_cooldown": (rates, (*SCHEDULE, LINEAR, f"{LR}.t_cooldown=2"), "3"),
    f"{LR}.alpha_f": (rates, SCHEDULE, "0.5"),
    f"{LLM}.algorithms.gradient_clipping.clipping_threshold": (steps_of, (), "0.001"),
    f"{LLM}.fsdp_config.sharding_strategy": (
        job, ("photon.devices_per_client=2", "photon.workers=1"), "NO_SHARD",
    ),
    f"{LLM}.fsdp_config.activation_checkpointing": (recomputed, (), "true"),
    f"{LLM}.fsdp_config.mixed_precision": (
        sharding, ("photon.devices_per_client=2", f"{LLM}.precision=amp_bf16"), "DEFAULT",
    ),
    f"{LLM}.loggers.tensorboard.flush_interval": (
        board, (f"{LLM}.loggers.tensorboard={{flush_interval: 10}}",), "2",
    ),
    "dataset.train.streams": (reads, (), STREAM),
    "dataset.val.streams": (reads, (), STREAM.replace("client_0", "client_1")),
    "dataset.train.shuffle": (reads, (), "false"),
    "dataset.train.shuffle_seed": (reads, (), "3"),
    "dataset.train.shuffle_block_size": (blocks, (), "8"),
    "dataset.train.root_remote": (store("client_0/train"), (), "file:///tmp"),
    "dataset.train.cache_limit": (store("client_0/train"), STORE, "10gb"),
    "dataset.train.download_retry": (store("client_0/train"), STORE, "5"),
    "dataset.train.download_timeout": (store("client_0/train"), STORE, "5"),
    "dataset.val.root_remote": (store("validation"), ("dataset.val.root_local=/tmp/x",),
                                "file:///tmp"),
    "dataset.val.cache_limit": (store("validation"), VAL_STORE, "10gb"),
    "dataset.val.download_retry": (store("validation"), VAL_STORE, "5"),
    "dataset.val.download_timeout": (store("validation"), VAL_STORE, "5"),
    **{f"dataset.embedded.{key}": (prepared, (CORPUS,), value) for key, value in {
        "vocab_size": "310", "partition": "source", "validation_fraction": "0.2",
        "max_bytes": "400000", "seed": "3",
    }.items()},
    **{f"{PREPARE}.{key}": (prepared, (*TEXTS, *more), value) for key, more, value in (
        ("source", (), "others"), ("text_column", (), "other"),
        ("source_column", (f"{PREPARE}.partition=source",), "kind"),
        ("tokenizer", (), "other.json"), ("bos_text", (), "<s>"), ("eos_text", (), "<s>"),
        ("vocab_size", TRAINED, "270"),
        ("tokenizer_bytes", TRAINED, "1000"),
        ("wrap", (), "false"), ("partition", (), "size"), ("first_client", (), "3"),
        ("alpha", (f"{PREPARE}.partition=dirichlet",), "100"),
        ("size_exponent", (f"{PREPARE}.partition=size",), "0.5"),
        ("validation_fraction", (), "0.3"),
        ("shuffle_documents", (f"{PREPARE}.source=split",), "2"), ("seed", (), "1"),
    )},
    **{f"wandb.setup.{key}": (told_wandb, ("use_wandb=true",), value) for key, value in SETUP},
    **{f"llm_config.loggers.wandb.init_kwargs.{key}": (told_wandb, (LOGGER,), value)
       for key, value in SETUP},
    "use_wandb": (told_wandb, (), "true"),
    "s3_comm_config.bucket_name": (mirror, (), "file:///tmp/mirror"),
    "s3_comm_config.num_attempts": (mirror, MIRROR, "7"),
    f"{CLIENT}.connect_timeout": (mirror, MIRROR, "5"),
    f"{CLIENT}.read_timeout": (mirror, MIRROR, "7"),
    "icl_tasks_config.icl_tasks": (watched, (), TASKS),
    "icl_tasks_config.root_dir": (watched, WATCHED, "other"),
    "icl_tasks_config.max_seq_len": (watched, WATCHED, "4"),
    "icl_tasks_config.limit": (watched, (*WATCHED, "icl_tasks_config.root_dir=other"), "1"),
    "icl_tasks_config.max_batch_tokens": (watched, WATCHED, "20"),
    "icl_tasks_config.parity": (watched, WATCHED, "true"),
    **{f"eval_gauntlet_config.eval_gauntlet.{key}": (
        watched, (*WATCHED, "icl_tasks_config.root_dir=other", f"{GAUNTLET}={COMPOSITE}"),
        f"{GAUNTLET}={COMPOSITE.replace(*change)}",
    ) for key, change in {
        "weighting": ("{re", "{weighting: SAMPLE_SZ, re"),
        "subtract_random_baseline": ("{re", "{subtract_random_baseline: false, re"),
        "rescale_accuracy": ("false", "true"),
        "averages": ("{re", "{averages: {mine: [one]}, re"),
        "categories.name": ("one", "two"),
        "categories.benchmarks.name": ("turn", "gone"),
        "categories.benchmarks.num_fewshot": ("num_fewshot: 1", "num_fewshot: 0"),
        "categories.benchmarks.random_baseline": ("0.25", "0.1"),
    }.items()},
    f"{PREPARE}.name": (wanted_of_hub, (f"{PREPARE}.source=some/set", *TEXTS[1:]), "other"),
    "photon.saving_path": (lands, ("fl.n_rounds=1",), "elsewhere"),
    "centralized.stream_id": (central, (STEPS,), "1"),
    "centralized.store_init_model": (central, (STEPS,), "true"),
    "centralized.store_final_model": (central, (STEPS,), "true"),
    "centralized.split_eval": (central, (STEPS,), "true"),
}  # fmt: skip

SERVER = ("photon.transport", "photon.n_nodes", "photon.join_timeout", "fl.fold_updates",
          "fl.staleness_exponent", "fl.max_staleness",
          "fl.round_timeout", "fl.round_timeout_min", "fl.straggler_factor")  # fmt: skip
"""Keys that only a server uses: a note says so elsewhere."""

SHOWN = {
    "run_uuid": "node/test_what_runs_left.py::test_the_same_command_goes_on_or_starts",
    f"{PREPARE}.splits":
        "data/test_split_sizes.py::test_splits_are_cut_to_their_size_and_shared_out",
    "wte_parameters_path": "node/test_what_runs_left.py::test_embeddings_of_another_model",
    "pretrained_model_path":
        "hub/test_warm_start.py::test_a_federation_starts_from_a_centralised_checkpoint",
    "photon.resume_round": "node/test_what_runs_left.py::test_a_run_that_goes_back_ends_as_it_did",
    "photon.restore_run_uuid":
        "node/test_what_runs_left.py::test_a_run_that_begins_with_a_copy_ends_as_the_original",
    "photon.copy_client_checkpoints":
        "node/test_what_runs_left.py::test_a_run_that_begins_with_a_copy_ends_as_the_original",
    "photon.restore_cent_run_uuid":
        "node/test_what_runs_left.py::test_a_federation_that_begins_with_a_centralised_run",
    "photon.restore_cent_run_batches":
        "node/test_what_runs_left.py::test_a_federation_that_begins_with_a_centralised_run",
    "centralized.eval_only":
        "node/test_what_runs_left.py::test_eval_only_scores_the_model_that_was_named",
    "compare.centralized": "experiment/test_equivalence.py::test_the_summary_is_the_result",
    "compare.alone": "experiment/test_equivalence.py::test_the_summary_is_the_result",
    "compare.centralized_learning_rate":
        "experiment/test_equivalence.py::test_the_summary_is_the_result",
    "compare.alone_learning_rate":
        "experiment/test_equivalence.py::test_the_summary_is_the_result",
    f"{MODEL}.pretrained_model_name_or_path":
        "hub/test_warm_start.py::test_any_model_of_transformers_trains_on",
    f"{MODEL}.pretrained":
        "hub/test_warm_start.py::test_new_weights_are_seeded_and_independent_of_the_folders",
    f"{MODEL}.config_overrides": "hub/test_warm_start.py::test_mistakes_are_one_line",
    "photon.transport_url":
        "server/test_bits_over_sockets.py::test_remote_nodes_give_the_bits_of_the_local_engine",
    "photon.transport_hosts":
        "node/test_hostile_server.py::test_a_node_asks_the_hosts_that_its_owner_has_named_and_follows_nobody",
    "fl.secure_aggregation":
        "secure/test_masked_rounds.py::test_a_masked_run_is_the_plain_one_in_fixed_point",
    **{f"fl.scoring.{key}": f"experiment/test_update_scoring.py::{test}" for key, test in (
        ("enabled", "test_who_turns_its_update_around_is_refused_left_out_and_comes_back"),
        ("failures", "test_who_turns_its_update_around_is_refused_left_out_and_comes_back"),
        ("quarantine", "test_who_turns_its_update_around_is_refused_left_out_and_comes_back"),
        ("rows", "test_a_copy_is_refused"),
        ("deviations", "test_few_deviations_refuse_the_honest_too"),
    )},
    "fl.secure_threshold":
        "secure/test_masked_rounds.py::test_a_cohort_whose_masks_protect_nobody_or_are_too_many_is_refused",
    "photon.fewest_masked":
        "secure/test_masked_rounds.py::test_a_node_trains_for_sums_of_so_many_clients_alone",
    "fl.fold_updates":
        "server/test_bits_over_sockets.py::test_partial_means_of_nodes_are_the_flat_mean",
    "llm_config.nonfinite_loss":
        "experiment/test_divergence.py::test_a_federated_run_can_skip_the_step",
    "llm_config.compile":
        "training/test_compile.py::test_a_compiled_step_has_the_gradient_of_a_plain_one",
    "dataset.train.root_local": "data/test_remote_runs.py::test_validation_may_lie_somewhere_else",
    "dataset.val.root_local": "data/test_remote_runs.py::test_validation_may_lie_somewhere_else",
    "eval_gauntlet_config.destination_dir":
        "scoring/test_evaluate.py::"
        "test_a_folder_that_takes_no_results_is_named_before_anything_is_scored",
}  # fmt: skip
"""Keys whose effect another test has: the test."""

ONE_VALUE = {f"{LLM}.algorithms.gradient_clipping.clipping_type", f"{MODEL}.hf_config"}
"""One value is all there is; a run fills its model's config in by itself."""
LABELS = {"llm_config.name", "dataset.name"}
"""Names of presets: for tables, the model card, the folder of prepared data."""
