"""Every key changes something that is used, or says that it does not: none is without effect.

An effect is looked for where it is felt, never in the configuration itself: in parameters after
some steps, in what the outer step makes of an update, in the records and files of a run.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import photon
from photon.config import Config, load_config
from photon.config.idle import RULES, idle_overrides
from photon.config.overrides import parse_override
from photon.config.reference import all_keys
from photon.config.resolve import replace_keys, resolve
from photon.core.messages import ClientState, Instruction, ServerState, StreamState
from photon.core.tree import digest
from photon.data.read.stream import JoinedStream, Stream
from photon.errors import DataError, PhotonError, PhotonNote
from photon.experiment import runs
from photon.machine.device import choose_device
from photon.model.build import build_model, empty_model, parameters_of
from photon.node import client_host as node
from photon.node import engine as local
from photon.node.client_host import Node, client_stream
from photon.node.fit import with_microbatch
from photon.run.outer import outer_of
from photon.run.participation import Participation
from photon.run.preparation import with_architecture
from photon.run.rows import cache_of, open_rows, storage_of
from photon.run.trackers import read_lines
from photon.server import loop as server
from photon.server.bounds import Honesty
from photon.server.remote import RemoteEngine, _OpenRound
from photon.tracking.external import ExternalTrackers
from photon.training.layers import layers_of
from photon.training.loop import Trainer
from photon.training.outline import traffic_of
from photon.training.parallel import _fully_shard, is_sharded
from photon.wire.transport import transport_of

CPU = torch.device("cpu")
TESTS = Path(__file__).parents[1]


def resolved(config: Config, **how: Any) -> Config:
    return resolve(config, **{"cores": 4, "accelerator": 0, "run_uuid": "r", **how})


class Synthetic:
    """Rows of a fixed pattern in the model's vocabulary."""

    def __init__(self, length: int, vocabulary: int) -> None:
        self.length, self.vocabulary, self.shard_rows = length, vocabulary, [64]

    def __len__(self) -> int:
        return 64

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.arange(self.length + 1) * (i + 1) % min(40, self.vocabulary) for i in indices]
        )


def steps_of(config: Config, steps: int = 3) -> Any:
    """Loss of each of some optimizer steps, rates, and the parameters that they lead to."""
    config = resolved(with_architecture(config))
    llm = config.llm_config
    seeded = list(parameters_of(build_model(llm, 0)))
    trainer = Trainer(llm, config.seed, CPU, frozen=layers_of(config.fl, seeded).frozen)
    stream = JoinedStream(
        [Stream(Synthetic(llm.max_seq_len, llm.model.vocab_size), seed=1, client=0)]  # pyright: ignore
    )
    trainer.state = trainer.state.__class__(streams=stream.start())
    segment = trainer.train(stream, steps)
    return segment.losses, segment.learning_rates, digest(parameters_of(trainer.model))


def rates(config: Config) -> Any:
    return steps_of(config, 8)[1]


def outer_step(config: Config) -> Any:
    """Two outer steps on one parameter, in the rounds before the last and the last but one."""
    params, state = {"w": torch.arange(4.0)}, None
    for number in (1, 2, 3):
        outer = outer_of(config, number)
        state = outer.init(params) if state is None else state
        params, state = outer.step(params, {"w": torch.ones(4) * number}, state)
    return params["w"].tolist()


def rules(config: Config) -> Any:
    return server.rules_of(config)


def cohort(config: Config) -> Any:
    """Whom and how much each of three rounds asks."""
    state = ServerState(round=0, step=0, params={}, outer={}, speeds={0: 1.0, 1: 9.0, 2: 9.0})
    rule = Participation(config, rows=(100, 10, 10, 200))
    alive = range(config.fl.n_total_clients)
    return [rule.choose(ServerState(**{**_fields(state), "round": n}), alive) for n in range(3)]


def _fields(state: Any) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def travels(config: Config) -> Any:
    return traffic_of(with_architecture(config))


def begins(config: Config, tmp: Path) -> Any:
    """What a client's second round starts from."""
    config = resolved(config)
    this = Node(config, tmp, CPU)
    task = Instruction(run="r", round=2, client=0, first_step=3, local_steps=3, base_digest="d",
                       last_accepted=1)  # fmt: skip
    own = {"exp_avg": {"w": torch.ones(1)}}
    before = ClientState(round=1, stream=StreamState(cursor=5), moments=own, optimizer_step=3)
    averaged = {"exp_avg": {"w": torch.zeros(1)}}
    state = this._begin(task, before, {"w": torch.ones(1)}, averaged)
    return state.streams, state.step, state.optimizer_step, str(state.moments)


def redrawn(config: Config, tmp: Path) -> Any:
    """Parameters before the third round, after two of three steps."""
    config = resolved(config)
    params = parameters_of(build_model(config.llm_config, config.seed))
    this = server.Server(config, tmp, None, None, None, None)  # pyright: ignore
    this._layers = layers_of(config.fl, list(params))
    state = ServerState(round=2, step=6, params=params, outer=outer_of(config, 3).init(params))
    return digest(this._redrawn(state).params)


def farthest(config: Config) -> Any:
    """The largest norm that a first update may have."""
    config = resolved(config)
    params = parameters_of(build_model(config.llm_config, config.seed))
    this = Honesty.of(config, layers_of(config.fl, list(params)))
    return this.bounds(ServerState(round=0, step=0, params=params, outer={}), 3).norm


def failure(config: Config) -> Any:
    """What comes of three failures of a round in a row."""
    this = server.Server(config, Path(), None, None, None, None)  # pyright: ignore
    found = []
    for _ in range(3):
        this._attempts += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                after = this._after_failure(
                    ServerState(round=1, step=0, params={}, outer={}), PhotonError("e")  # pyright: ignore
                )  # fmt: skip
            found.append("again" if after is None else "skip")
        except PhotonError:
            found.append("stop")
    return found


def closes(config: Config) -> Any:
    """Seconds after which a round ends, with one missing, and with all but a quorum."""
    engine = object.__new__(RemoteEngine)
    engine.config, engine._durations = config, [10.0, 11.0, 15.0]
    found = []
    for arrived in ((), range(config.fl.cohort_size - 1), range(config.fl.cohort_size)):
        plan = SimpleNamespace(spares=())
        current = SimpleNamespace(begun=0.0, arrived=set(arrived), sound=set(), plan=plan)
        found.append(
            [s for s in range(0, 200, 5) if _over(engine, current, s)][:1]  # pyright: ignore
        )
    return found


def _over(engine: RemoteEngine, current: _OpenRound, seconds: float) -> bool:
    from photon.server import remote

    clock, remote.time = remote.time, SimpleNamespace(monotonic=lambda: seconds)  # pyright: ignore
    try:
        return engine._is_over(current)
    finally:
        remote.time = clock


def forward_passes(config: Config) -> Any:
    """Shapes that the model sees in a validation."""
    config = resolved(config)
    model = build_model(config.llm_config, 0)
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    found = runs._evaluate(config, model, open_rows(config, "validation")).loss
    return found, (seen or [hash(str(found))])


def record(config: Config, centralized: bool = False) -> Any:
    """Records and files of a whole run, but for its clock."""
    result = photon.train(config, centralized=centralized)
    folder = Path(result.folder)
    lines = read_lines(folder / "metrics.jsonl")
    clock = ("seconds", "peak", "per_second", "wait", "utilization")
    steady = [{k: str(v) for k, v in line.items() if not any(c in k for c in clock)
               and k not in ("client_metrics", "mean_metrics")} for line in lines]  # fmt: skip
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    own = [sorted(m) for m in lines[-1].get("client_metrics", {}).values()]
    return result.unigram, steady, sorted(names), own


def central(config: Config) -> Any:
    return record(config, centralized=True)


def board(config: Config, tmp: Path) -> Any:
    """How far the curves of two records are on the disk before the run ends."""
    folder = SimpleNamespace(path=tmp, kind="federated")
    outside = ExternalTrackers(folder, config, True, print, print)  # pyright: ignore
    tracker: Any = outside._wanted()["tensorboard"]("round", 0)
    for number in (1, 2, 3):
        tracker({"round": number, "loss": 1.0})
    written = tracker._position.read()
    tracker._writer.close()
    return written


def reads(config: Config) -> Any:
    """Rows of a client and of the validation, in order."""
    stream = client_stream(config, 0)
    validation = open_rows(config, "validation")
    order, _ = stream.indices(StreamState(), 12)
    return order.tolist(), stream.rows.num_rows, validation.num_rows


def blocks(config: Config, monkeypatch: Any) -> Any:
    """Order of the rows of eight shards."""
    shards = Synthetic(32, 300)
    shards.shard_rows, shards.sequence_length = [8] * 8, 32
    monkeypatch.setattr(node, "open_rows", lambda config, part: shards)
    return client_stream(config, 0).indices(StreamState(), 64)[0].tolist()


def sharding(config: Config, monkeypatch: Any) -> Any:
    """What FSDP2 is asked for."""
    asked: list[Any] = []
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", lambda m, **how: asked.append(how))
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda *_: None)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    _fully_shard(empty_model(config.llm_config), config.llm_config, CPU)
    return [(how["reshard_after_forward"], how["mp_policy"]) for how in asked]


def store(part: str) -> Callable[[Config], Any]:
    """What brings shards from a store."""

    def found(config: Config) -> Any:
        storage = storage_of(config, part)
        cache = cache_of(storage, Path("cache"))
        return cache and (cache.limit, cache.remote.url, cache.remote.retry, cache.remote.timeout)

    return found


def engine(config: Config, tmp: Path, monkeypatch: Any) -> Any:
    """What trains the clients of this machine."""
    monkeypatch.setattr(local.WorkerPool, "_start", lambda self: self.workers.append(None))
    config = resolved(config)
    threads = torch.get_num_threads()
    folder = SimpleNamespace(clients=tmp, config=config)
    try:
        made = local.local_engine(folder, config, CPU)  # pyright: ignore
        if isinstance(made, local.WorkerPool):
            sizes = len(made.workers), config.photon.threads
            return sizes, made.timeout, made.refresh
        return torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)


def device(config: Config) -> Any:
    return str(choose_device(config.photon.device))


def job(config: Config) -> Any:
    """How two processes would share the model, and rows of a pass of one."""
    config = resolved(config)
    llm = config.llm_config
    rows = with_microbatch(config, CPU, 2).llm_config.device_train_microbatch_size
    return is_sharded(llm, 2), rows


def carrier(config: Config) -> Any:
    return type(transport_of(config.photon.transport).server(config.photon, "r")).__name__


def unigram(config: Config, monkeypatch: Any) -> Any:
    def missing(config: Config) -> None:
        raise DataError("no frequencies")

    monkeypatch.setattr(runs, "unigram_score", missing)
    try:
        return runs._unigram(config, SimpleNamespace(trains_elsewhere=False))  # pyright: ignore
    except DataError:
        return "refused"


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
TWICE = ("fl.n_rounds=2", "fl.eval_period=1")
STORE = ("dataset.train.root_remote=file:///tmp", "dataset.train.root_local=/tmp/x")
VAL_STORE = ("dataset.val.root_remote=file:///tmp", "dataset.val.root_local=/tmp/x")
STEPS = f"{LLM}.max_duration=4"
GIVEN = (f"{LLM}.max_duration=4", f"{LLM}.local_steps=2")
STREAM = "[{client_streams: {s: {local: client_1}}}, {client_streams: {s: {local: client_0}}}]"

Case = tuple[Callable[..., Any], tuple[str, ...], str]
"""What observes, what holds beside, and the value whose effect is looked for."""

CASES: dict[str, Case] = {
    "seed": (steps_of, (), "7"),
    "cleanup_checkpoints": (record, TWICE, "true"),
    "cleanup_checkpoints_per_round": (record, TWICE, "true"),
    "photon.workers": (engine, (), "2"),
    "photon.threads": (engine, (), "2"),
    "photon.devices_per_client": (engine, ("photon.workers=1", "photon.threads=auto"), "2"),
    "photon.worker_timeout": (engine, ("photon.workers=1",), "5"),
    "photon.refresh_period": (engine, ("photon.workers=1",), "2"),
    "photon.device": (device, (), "cpu:0"),
    "photon.transport": (carrier, (), "shm"),
    "fl.n_total_clients": (cohort, (), "4"),
    "fl.n_clients_per_round": (cohort, FOUR, "3"),
    "fl.sampling": (cohort, FOUR, "by_size"),
    "fl.availability": (cohort, FOUR, "0.3"),
    "fl.oversample": (cohort, FOUR, "1"),
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
    "fl.outer_schedule.alpha_f": (
        outer_step, (*ROUNDS, "fl.outer_schedule.name=cosine"), "0.5",
    ),
    "fl.aggregate_momenta": (travels, (), "false"),
    "fl.compression": (travels, (), "fp32"),
    "fl.personalized_layers": (travels, (), "[norm.weight]"),
    "fl.fold_updates": (travels, (), "true"),
    "fl.resize_vocab": (steps_of, (), "310"),
    "fl.frozen_layers": (steps_of, (), "[norm.weight]"),
    "fl.unfrozen_layers": (steps_of, (), "[norm.weight]"),
    "fl.reset_optimizer": (begins, ("fl.aggregate_momenta=false",), "true"),
    "fl.reset_dataset_state": (begins, (), "true"),
    "fl.reset_timestamp": (begins, (), "true"),
    "fl.reset_checkpoint": (begins, ("fl.aggregate_momenta=false",), "true"),
    "fl.random_layers": (redrawn, RANDOM[1:], "[embedding.weight]"),
    "fl.random_init_freq": (redrawn, (RANDOM[0], "fl.random_init_freq=100"), "3"),
    "fl.truly_random_init": (redrawn, RANDOM, "false"),
    "fl.scaling_fn": (rules, (), "sqrt"),
    "fl.quorum": (rules, (), "1"),
    "fl.accept_failures_cnt": (rules, (), "1"),
    "fl.staleness_exponent": (rules, (), "0.5"),
    "fl.max_staleness": (rules, ("fl.staleness_exponent=1",), "2"),
    "fl.max_norm_ratio": (rules, (), "2"),
    "fl.max_reach": (farthest, (), "7"),
    "fl.ignore_failed_rounds": (failure, (), "true"),
    "fl.failed_rounds": (failure, (), "retry"),
    "fl.round_attempts": (failure, ("fl.failed_rounds=retry",), "2"),
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
    "llm_config.max_seq_len": (steps_of, (), "16"),
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
    "centralized.stream_id": (central, (STEPS,), "1"),
    "centralized.store_init_model": (central, (STEPS,), "true"),
    "centralized.store_final_model": (central, (STEPS,), "true"),
    "centralized.split_eval": (central, (STEPS,), "true"),
}  # fmt: skip

SERVER = ("photon.transport", "fl.fold_updates", "fl.staleness_exponent", "fl.max_staleness",
          "fl.round_timeout", "fl.round_timeout_min", "fl.straggler_factor")  # fmt: skip
"""Keys that only a server uses: a note says so elsewhere."""

SHOWN = {
    "runtime/test_options.py": """pretrained_model_path wte_parameters_path photon.resume_round
        photon.restore_run_uuid photon.copy_client_checkpoints photon.restore_cent_run_uuid
        photon.restore_cent_run_batches centralized.eval_only""",
    "runtime/test_equivalence.py": """compare.centralized compare.alone
        compare.alone_learning_rate""",
    "runtime/test_warm_start.py": """llm_config.model.pretrained_model_name_or_path
        llm_config.model.pretrained llm_config.model.config_overrides""",
    "runtime/test_federation.py": "photon.n_nodes photon.join_timeout photon.transport_url",
    "runtime/test_hostile_server.py": "photon.transport_hosts",
    "runtime/test_divergence.py": "llm_config.nonfinite_loss",
    "runtime/test_resume.py": "run_uuid photon.saving_path",
    "runtime/test_fit.py": "llm_config.fsdp_config.activation_checkpointing",
    "training/test_compile.py": "llm_config.compile",
    "runtime/test_trackers.py": "use_wandb",
    "conftest.py": "dataset.train.root_local",
    "data/test_remote_runs.py": "dataset.val.root_local",
    "cli/test_cli.py": "dataset.embedded.max_bytes",
}
"""Keys whose effect another test has, by its file."""

ONE_VALUE = {f"{LLM}.algorithms.gradient_clipping.clipping_type", f"{MODEL}.hf_config"}
"""One value is all there is; a run fills its model's config in by itself."""
LABELS = {"llm_config.name", "dataset.name"}
"""Names of presets: for tables, the model card, the folder of prepared data."""
ELSEWHERE = ("wandb.", "s3_comm_config.", "llm_config.loggers.wandb.", "icl_tasks_config.",
             "eval_gauntlet_config.", "dataset.prepare.", "dataset.embedded.")  # fmt: skip
"""Whole sections with test files of their own: trackers, mirror, evaluation, preparation."""


def observed(observe: Callable[..., Any], config: Config, tmp_path: Path, monkeypatch: Any) -> Any:
    given = {"tmp": tmp_path, "monkeypatch": monkeypatch}
    names = observe.__code__.co_varnames[: observe.__code__.co_argcount]
    return observe(config, **{name: given[name] for name in names if name in given})


@pytest.fixture(scope="module")
def plain(data_root) -> Config:
    return load_config(["recipe=smoke", f"dataset.train.root_local={data_root}"])


@pytest.fixture
def make(plain, tmp_path):
    """The smoke recipe with some keys, composed once: Hydra takes longer than the steps do."""

    def call(*overrides: str) -> Config:
        parsed = (parse_override(text) for text in overrides)
        keys = {one.key_or_group: one.value() for one in parsed}
        return replace_keys(plain, {"photon.saving_path": str(tmp_path), **keys})

    return call


BEFORE: dict[Any, Any] = {}
"""What is observed without a key, by what observes it."""


@pytest.mark.parametrize("key", CASES)
def test_a_key_has_an_effect(key, make, tmp_path, monkeypatch):
    observe, beside, value = CASES[key]
    text = f"{key}={value}"
    config = make("run_uuid=b", *beside, text)
    if (observe, beside) not in BEFORE:
        first = make("run_uuid=a", *beside)
        BEFORE[observe, beside] = observed(observe, first, tmp_path, monkeypatch)
    assert observed(observe, config, tmp_path, monkeypatch) != BEFORE[observe, beside]
    run = "centralized" if observe is central else "server" if key in SERVER else "federated"
    assert not list(idle_overrides(config, [text], run)), "and no note says that it has none"


def test_every_key_is_accounted_for():
    keys = {one.key for one in all_keys()}
    shown = {key for words in SHOWN.values() for key in words.split()}
    known = {*CASES, *shown, *ONE_VALUE, *LABELS}
    assert {key for key in keys - known if not key.startswith(ELSEWHERE)} == set()
    assert known - keys == set()


@pytest.mark.parametrize("file", SHOWN)
def test_what_another_test_shows_is_there(file):
    text = (TESTS / file).read_text()
    for key in SHOWN[file].split():
        assert key.rsplit(".", 1)[-1] in text, key


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
    ("centralized", (STEPS,), "photon.workers=2"),
    ("server", (), "photon.devices_per_client=2"),
    ("federated", (), "photon.worker_timeout=3"),
    ("federated", (), "photon.n_nodes=3"),
    ("federated", (), "photon.transport_hosts=[a]"),
    ("server", (), "photon.transport_url=s3://b"),
    ("federated", (), "fl.round_timeout=3"),
    ("federated", (), "fl.fold_updates=true"),
    ("federated", (), "fl.oversample=1"),
    ("server", (), "fl.max_staleness=2"),
    ("federated", (), "fl.noise_scale_beta=0.5"),
    ("federated", (), "fl.random_init_freq=5"),
    ("federated", (), "fl.round_attempts=5"),
    ("federated", ("fl.ignore_failed_rounds=true",), "fl.failed_rounds=skip"),
    ("federated", (), "fl.outer_schedule.alpha_f=0.5"),
    ("federated", ("fl.eval_period=null",), "fl.split_eval=true"),
    ("federated", (), "photon.copy_client_checkpoints=false"),
    ("federated", (), "photon.restore_cent_run_batches=5"),
    ("federated", (), "photon.resume_round=-1"),
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
    trains = observe in (steps_of, rates, outer_step, redrawn, failure)
    if run == "federated" and trains and "hf_causal_lm" not in str(beside):
        before = observed(observe, make(*name, *beside), tmp_path, monkeypatch)
        assert observed(observe, config, tmp_path, monkeypatch) == before


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
