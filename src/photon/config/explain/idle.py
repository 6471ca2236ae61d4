"""Keys that say nothing beside the others that are given: each gets a note, none is ignored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from photon.config.compression import rounds_only
from photon.config.federation import LARGEST_STEP
from photon.config.overrides import parse_override
from photon.config.schema import Config
from photon.errors import ConfigError, PhotonNote, warn

Course = Literal["federated", "centralized", "server", "hosting", "simulated", "node"]
"""What trains: a federation on this machine, no federation, a federation over the network, the same
with a node beside the server, or over links that are made up; or one of its nodes, whose keys are
those that are its own.
"""


@dataclass(frozen=True, slots=True)
class Idle:
    """A rule.

    Attributes:
        keys: these, and all below them.
        when: it holds.
        why: what counts in their place; `{steps}` stands for the steps of the federation.
        but: keys below those that count all the same.
    """

    keys: tuple[str, ...]
    when: Callable[[Config, Course], bool]
    why: str
    but: tuple[str, ...] = ()

    def is_of(self, key: str) -> bool:
        return _is_below(key, self.keys) and not _is_below(key, self.but)


def _is_below(key: str, keys: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{one}.") for one in keys)


def _serves(run: Course) -> bool:
    return run in ("server", "hosting")


def _has_nodes(run: Course) -> bool:
    return _serves(run) or run == "simulated"


def _is_alone() -> bool:
    """No other process of a `torchrun` job beside this one."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


LR, LLM, MODEL = "llm_config.scheduler.schedulers.lr", "llm_config", "llm_config.model"
_SHAPE = ("d_model", "n_heads", "n_layers", "vocab_size", "tie_word_embeddings", "norm_eps",
          "init_std")  # fmt: skip
_OF_MPT = (f"{MODEL}.expansion_ratio", f"{MODEL}.ffn_act", f"{MODEL}.no_bias",
           f"{MODEL}.attn_config.alibi", f"{MODEL}.attn_config.alibi_bias_max")  # fmt: skip
_OF_LLAMA = (f"{MODEL}.ffn_hidden_size", f"{MODEL}.init_std", f"{MODEL}.attn_config.kv_n_heads",
             f"{MODEL}.attn_config.qk_norm", f"{MODEL}.attn_config.rope_theta")  # fmt: skip
_OF_HF = (f"{MODEL}.pretrained_model_name_or_path", f"{MODEL}.pretrained",
          f"{MODEL}.config_overrides", f"{MODEL}.hf_config")  # fmt: skip
_CLOCK = ("fl.round_timeout", "fl.round_timeout_min", "fl.straggler_factor",
          "fl.staleness_exponent", "fl.max_staleness")  # fmt: skip
_NODES, _TRANSPORT = (
    ("photon.n_nodes", "photon.join_timeout"),
    ("photon.transport", "photon.transport_url"),
)
_POOL = ("photon.workers", "photon.worker_timeout", "photon.refresh_period")
_START = tuple(f"photon.{name}" for name in (
    "resume_round", "restore_run_uuid", "copy_client_checkpoints", "restore_cent_run_uuid",
    "restore_cent_run_batches",
))  # fmt: skip
_LENGTH = ("fl.n_rounds", "fl.n_local_steps", "fl.n_local_epochs", "llm_config.local_steps")

RULES: tuple[Idle, ...] = (
    Idle(("llm_config.max_duration",),
         lambda c, run: run != "centralized" and c.asked_steps != c.inner.max_steps,
         "a federation takes fl.n_rounds * llm_config.local_steps = {steps} steps; max_duration is "
         "the length of a centralised run"),
    Idle(("llm_config.eval_interval",),
         lambda c, run: run != "centralized" and not c.compare.wanted,
         "a federation validates by fl.eval_period"),
    Idle(("centralized",), lambda c, run: run != "centralized",
         "it is of `photon train --centralized`"),
    Idle(_LENGTH,
         lambda c, run: run == "centralized" and c.inner.max_steps is not None,
         "a centralised run takes llm_config.max_duration={config.inner.max_steps} steps"),
    Idle(("fl",), lambda c, run: run == "centralized", "a centralised run has no rounds",
         but=(*_LENGTH, "fl.n_total_clients", "fl.frozen_layers", "fl.unfrozen_layers",
              "fl.resize_vocab", "fl.allow_unigram_metrics_failures")),
    Idle(("compare",), lambda c, run: run == "centralized",
         "baselines are trained after a federation"),
    Idle(("photon.restore_run_uuid", "photon.copy_client_checkpoints"),
         lambda c, run: run == "centralized",
         "a federation begins with a copy of another; a centralised run starts from "
         "pretrained_model_path"),
    Idle((*_START, "dataset.val"), lambda c, run: run == "node",
         "where a run begins, and what validates it, is the server's"),
    Idle((*_POOL, "photon.devices_per_client"), lambda c, run: run == "centralized",
         "a centralised run trains in this process, or in those of torchrun"),
    Idle(("photon.step_seconds",), lambda c, run: run == "centralized",
         "nobody waits for a centralised run"),
    Idle((*_POOL[1:], "photon.devices_per_client", "photon.step_seconds"),
         lambda c, run: _serves(run), "it is each node's own"),
    Idle(("photon.workers",), lambda c, run: run == "server",
         "it is each node's own; with --host-clients it is of the node beside the server"),
    Idle((*_POOL, "photon.devices_per_client", "photon.step_seconds"),
         lambda c, run: run == "simulated",
         "all sites are in this process, at the speeds of links.yaml"),
    Idle(_POOL[1:], lambda c, run: c.machine.workers == 0, "photon.workers=0 has no workers"),
    Idle(_NODES, lambda c, run: not _has_nodes(run), "it is of `photon server`"),
    Idle(_TRANSPORT, lambda c, run: not _serves(run), "it is of `photon server`"),
    Idle(("photon.transport_hosts", "photon.fewest_masked"),
         lambda c, run: run not in ("hosting", "node"), "it is of `photon node`"),
    Idle(("photon.transport_url", "photon.transport_hosts"),
         lambda c, run: run != "node" and c.machine.transport != "s3",
         "it is of photon.transport=s3"),
    Idle(_CLOCK, lambda c, run: not _has_nodes(run),
         "clients of this machine are waited for; it is of `photon server`"),
    Idle(("fl.buffer",), lambda c, run: not c.federation.is_async,
         "rounds wait for their cohort; fl.mode=async merges what has come"),
    Idle(("fl.overlap_steps",),
         lambda c, run: (c.federation.overlap_steps or 0) > (c.asked_local_steps or LARGEST_STEP),
         "llm_config.local_steps={config.asked_local_steps} are taken ahead at most"),
    Idle(("fl.overlap",), lambda c, run: c.federation.overlap_steps == 0,
         "fl.overlap_steps=0 takes no step ahead"),
    Idle(("fl.scoring",), lambda c, run: not c.federation.judging.enabled,
         "fl.scoring.enabled=true scores updates"),
    Idle(("fl.round_timeout_min", "fl.straggler_factor"), lambda c, run: c.federation.is_async,
         "an asynchronous merge waits for nobody in particular"),
    Idle(("fl.round_timeout_min", "fl.straggler_factor"),
         lambda c, run: c.federation.needed == c.federation.cohort_size,
         "fl.quorum={config.federation.needed} is the whole cohort, so a round waits for all; a "
         "lower one lets it close without stragglers"),
    Idle(("fl.staleness_exponent", "fl.max_staleness"),
         lambda c, run: c.federation.needed == c.federation.population > 1
         and c.federation.on_failure != "skip",
         "fl.quorum={config.federation.needed} are all clients, and no round closes without one, "
         "so none is late"),
    Idle(("fl.fold_updates",), lambda c, run: not _has_nodes(run),
         "nothing is sent on one machine; it is of `photon server`"),
    Idle(("fl.secure_threshold",), lambda c, run: not c.federation.secure_aggregation,
         "fl.secure_aggregation=true masks what it is of"),
    Idle(("fl.compression.upload", "fl.compression.residual_decay"),
         lambda c, run: c.federation.secure_aggregation,
         "fl.secure_aggregation=true sends whole numbers of 32 bits, which masks can be added to"),
    Idle(("fl.first_moment_period", "fl.second_moment_period", "fl.compression.moments"),
         lambda c, run: not c.averaging().averages_moments,
         "no moments are averaged; fl.aggregate_momenta=true averages them"),
    Idle(("fl.compression.residual_decay",),
         lambda c, run: rounds_only(c.federation.compression.upload),
         "fl.compression.upload={config.federation.compression.upload} loses nothing that is fed "
         "back"),
    Idle(("fl.compression.residual_decay",), lambda c, run: c.federation.forgets_clients,
         "fl.reset_checkpoint=true forgets what a codec has lost"),
    Idle(("fl.oversample", "fl.sampling"),
         lambda c, run: c.federation.cohort_size == c.federation.population,
         "every client is in the cohort; fl.n_clients_per_round takes fewer"),
    Idle(("fl.max_staleness",), lambda c, run: c.federation.late_exponent is None,
         "late updates are refused; fl.staleness_exponent takes them"),
    Idle(("fl.privacy",), lambda c, run: not c.federation.privacy.is_on,
         "fl.privacy.clip_norm=null: there is no privacy"),
    Idle(("fl.max_norm_ratio",), lambda c, run: c.federation.privacy.is_on,
         "fl.privacy.clip_norm shortens updates; none is judged by those of others"),
    Idle(("fl.use_noise_scale_metric", "fl.noise_scale_beta"),
         lambda c, run: c.federation.cohort_size < 2,
         "it takes the updates of two clients in a round; fl.n_clients_per_round asks one"),
    Idle(("fl.noise_scale_beta",), lambda c, run: not c.federation.measures_noise,
         "fl.use_noise_scale_metric=true measures what it is of"),
    Idle(("fl.random_init_freq", "fl.truly_random_init"),
         lambda c, run: not c.federation.random_layers,
         "fl.random_layers names none"),
    Idle(("fl.round_attempts",), lambda c, run: c.federation.on_failure != "retry",
         "fl.failed_rounds=retry tries again"),
    Idle(("fl.failed_rounds",), lambda c, run: c.federation.skips_failed_rounds,
         "fl.ignore_failed_rounds=true skips them"),
    Idle(("fl.outer_schedule.alpha_f", "fl.outer_schedule.t_max"),
         lambda c, run: c.federation.outer_schedule.name == "constant",
         "fl.outer_schedule.name=constant does not fall"),
    Idle(("fl.split_eval",), lambda c, run: c.federation.validation_period is None,
         "fl.eval_period=null validates after the last round only"),
    Idle(("photon.copy_client_checkpoints",), lambda c, run: c.machine.copied_run is None,
         "photon.restore_run_uuid names no run"),
    Idle(("photon.restore_cent_run_batches",),
         lambda c, run: c.machine.centralized_run is None,
         "photon.restore_cent_run_uuid names no run"),
    Idle(("photon.resume_round",),
         lambda c, run: not _serves(run) and not (c.name or c.machine.copied_run),
         "nothing names a run to go on with: give run_uuid"),
    Idle(("compare.centralized_learning_rate",), lambda c, run: not c.compare.centralized,
         "compare.centralized=true trains what it is of"),
    Idle(("compare.alone_learning_rate",), lambda c, run: not c.compare.alone,
         "compare.alone=true trains what it is of"),
    Idle(("s3_comm_config",), lambda c, run: c.mirror.bucket is None,
         "s3_comm_config.bucket_name names no bucket"),
    Idle(("wandb",),
         lambda c, run: not (c.use_wandb or c.inner.loggers.wandb),
         "use_wandb=true switches W&B on"),
    Idle(("wandb",),
         lambda c, run: bool(c.inner.loggers.wandb and c.inner.loggers.wandb.init_kwargs),
         "llm_config.loggers.wandb.init_kwargs stands in its place"),
    Idle(("dataset.prepare",), lambda c, run: True, "`photon prepare` uses it; training does not"),
    Idle(("dataset.embedded",),
         lambda c, run: bool(c.data.train.root or c.data.train.store),
         "dataset.train says where other data is"),
    Idle(("dataset.train.shuffle_seed", "dataset.train.shuffle_block_size"),
         lambda c, run: not c.data.train.shuffle, "dataset.train.shuffle=false"),
    *(Idle(tuple(f"dataset.{split}.{k}" for k in ("cache_limit", "download_retry",
                                                  "download_timeout")),
           lambda c, run, part=part: getattr(c.data, part).store is None,
           f"dataset.{split}.root_remote names no store")
      for split, part in (("train", "train"), ("val", "validation"))),
    Idle(tuple(f"{MODEL}.{name}" for name in _SHAPE) + _OF_MPT + _OF_LLAMA,
         lambda c, run: c.inner.model.name == "hf_causal_lm",
         "the config.json of the model says it; llm_config.model.config_overrides changes it"),
    Idle(_OF_MPT, lambda c, run: c.inner.model.name == "llama", "it is of mpt_causal_lm"),
    Idle(_OF_LLAMA, lambda c, run: c.inner.model.is_mpt, "it is of llama"),
    Idle(_OF_HF, lambda c, run: c.inner.model.name != "hf_causal_lm",
         "it is of llm_config.model.name=hf_causal_lm"),
    Idle((f"{MODEL}.attn_config.alibi_bias_max",),
         lambda c, run: not c.inner.model.attention.alibi,
         "llm_config.model.attn_config.alibi=true has biases"),
    Idle(("llm_config.optimizer.momentum",), lambda c, run: c.inner.optimizer.name != "muon",
         "it is of muon"),
    Idle(("llm_config.optimizer.betas", "llm_config.optimizer.eps"),
         lambda c, run: c.inner.optimizer.name == "sgd", "sgd has no moments"),
    Idle((f"{LR}.t_cooldown",),
         lambda c, run: c.inner.schedules.schedulers.lr.name == "cosine_with_warmup",
         "a cosine falls from its warm-up on"),
    Idle(("llm_config.fsdp_config.sharding_strategy", "llm_config.fsdp_config.mixed_precision"),
         lambda c, run: run in ("federated", "simulated") and c.machine.devices_per_client == 1,
         "one device trains a client; photon.devices_per_client takes more"),
    Idle(("llm_config.fsdp_config.sharding_strategy", "llm_config.fsdp_config.mixed_precision"),
         lambda c, run: run == "centralized" and _is_alone(),
         "one process trains; torchrun --nproc-per-node starts more"),
    Idle(("llm_config.fsdp_config.mixed_precision",),
         lambda c, run: c.inner.precision == "fp32" or (
             c.inner.sharding is not None and c.inner.sharding.sharding_strategy == "NO_SHARD"),
         "gradients are summed in fp32 with llm_config.precision=fp32, and by DDP (NO_SHARD)"),
    Idle(("llm_config.save_num_checkpoints_to_keep", "cleanup_checkpoints"),
         lambda c, run: c.keeps_newest_only,
         "cleanup_checkpoints_per_round=true keeps the newest alone"),
    Idle(("icl_tasks_config",), lambda c, run: not c.scoring.tasks,
         "no tasks are scored: icl_tasks_config=light has some",
         but=("icl_tasks_config.icl_tasks",)),
    Idle(("eval_gauntlet_config.eval_gauntlet",),
         lambda c, run: not c.scoring.tasks,
         "no tasks are scored: icl_tasks_config=light has some"),
    Idle(("eval_gauntlet_config.destination_dir",), lambda c, run: True,
         "`photon evaluate` uses it; a run's scores are in its metrics.jsonl"),
)  # fmt: skip
"""The first that holds for a key gives its note."""


def note_idle(found: Iterable[tuple[str, str]]) -> None:
    """Say of each override that it changes nothing; a default may be said without a word.

    Args:
        found: by `idle_overrides`.
    """
    for text, why in found:
        warn(f"{text}: has no effect here: {why}", PhotonNote)


def idle_overrides(
    config: Config, overrides: Sequence[str], course: Course
) -> Iterator[tuple[str, str]]:
    """(override, why it changes nothing)."""
    default, values = Config().values_by_key(), config.values_by_key()
    holding = [rule for rule in RULES if rule.when(config, course)]
    for text in overrides:
        try:
            override = parse_override(text)
        except ConfigError:
            continue  # whoever composes the configuration explains it
        key = override.key_or_group
        given = [k for k in values if _is_below(k, (key,)) and values[k] != default.get(k)]
        rules = [next((rule for rule in holding if rule.is_of(k)), None) for k in given]
        if not override.is_delete() and rules and (rule := rules[0]) and all(rules):
            steps = config.asked_steps
            yield text, rule.why.format(config=config, steps="so many" if steps is None else steps)
