"""The override lists of the original's examples, as published, through the real command.

Sizes and counts are scaled down by further overrides; what the lists say of the schedule, of steps
and of who takes part stays.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from photon.cli.main import run
from photon.run.run_folder import read_run
from photon.run.trackers import read_lines

FEDERATED_BASE = """llm_config=mpt-125m
run_uuid=RUN photon.refresh_period=100 photon.checkpoint=true photon.saving_path=DIR
llm_config.save_folder=DIR llm_config.save_overwrite=true photon.n_nodes=1 photon.resume_round=null
photon.refresh_period=60 photon.restore_run_uuid=null fl.n_total_clients=1 fl.n_clients_per_round=1
fl.n_rounds=10 fl.strategy_name=NESTOROV fl.strategy_kwargs.server_learning_rate=1.0
fl.strategy_kwargs.server_momentum=0.0 llm_config.scheduler.schedulers.lr.t_max=5000ba
llm_config.scheduler.schedulers.lr.t_warmup=100ba llm_config.scheduler.schedulers.lr.alpha_f=0.1
llm_config.optimizer.lr=6.0e-4 fl.reset_optimizer=true llm_config.save_interval=90000ba
llm_config.console_log_interval=100ba llm_config.local_steps=1ba llm_config.eval_first=true
llm_config.eval_interval=250ba llm_config.eval_subset_num_batches=1 llm_config.precision=amp_fp16
++llm_config.device_eval_microbatch_size=auto llm_config.device_eval_batch_size=128
llm_config.device_train_microbatch_size=auto llm_config.model.attn_config.attn_impl=flash
icl_tasks_config=empty eval_gauntlet_config=empty"""
FEDERATED_EXAMPLE = """llm_config.max_duration=40960ba
llm_config.scheduler.schedulers.lr.t_max=40960ba llm_config.scheduler.schedulers.lr.t_warmup=800ba
llm_config.scheduler.schedulers.lr.alpha_f=0.1 llm_config.optimizer.lr=6.0e-4
fl.strategy_kwargs.server_learning_rate=1.0 fl.strategy_kwargs.server_momentum=0.0 fl.n_rounds=320
llm_config.local_steps=128ba ++llm_config.device_eval_microbatch_size=auto fl.reset_optimizer=false
llm_config.save_interval=128ba dataset=fed-c4 dataset.train.root_local=DATA/fed-c4
dataset.val.root_local=DATA/fed-c4 dataset/streams@dataset.train.streams=8_clients
dataset/streams@dataset.val.streams=8_clients centralized.stream_id=null
llm_config.global_train_batch_size=32 llm_config.device_train_microbatch_size=auto
llm_config.precision=amp_bf16 llm_config.model.attn_config.attn_impl=flash fl.n_total_clients=8
fl.n_clients_per_round=8 fl.eval_period=null llm_config.eval_interval=40960ba
photon.checkpoint=false photon.comm_stack.shm=false photon.comm_stack.ray=true use_wandb=false
cleanup_checkpoints=false cleanup_checkpoints_per_round=false llm_config.eval_first=false
~llm_config.loggers.wandb ~llm_config.loggers.tensorboard"""
CENTRALISED_BASE = """llm_config=mpt-125m llm_config.max_duration=10ba
llm_config.scheduler.schedulers.lr.t_max=10ba llm_config.scheduler.schedulers.lr.t_warmup=1ba
llm_config.scheduler.schedulers.lr.alpha_f=0.1 llm_config.optimizer.lr=6.0e-4
llm_config.save_interval=1000ba llm_config.console_log_interval=100ba llm_config.eval_first=true
llm_config.eval_interval=250ba llm_config.eval_subset_num_batches=1
++llm_config.device_eval_microbatch_size=auto llm_config.device_eval_batch_size=128
llm_config.global_train_batch_size=64 llm_config.device_train_microbatch_size=auto
llm_config.precision=amp_bf16 run_uuid=RUN icl_tasks_config=empty eval_gauntlet_config=empty"""
CENTRALISED_EXAMPLE = """llm_config.max_duration=5120ba
llm_config.scheduler.schedulers.lr.name=constant_with_sqrt_cooldown_with_warmup
llm_config.scheduler.schedulers.lr.t_max=5120ba llm_config.scheduler.schedulers.lr.t_warmup=100ba
++llm_config.scheduler.schedulers.lr.t_cooldown=240ba ~llm_config.scheduler.schedulers.lr.alpha_f
~llm_config.algorithms.gradient_clipping llm_config.optimizer.name=decoupled_adamw dataset=fed-c4
dataset.train.root_local=DATA/fed-c4 dataset.val.root_local=DATA/fed-c4
dataset/streams@dataset.train.streams=8_clients dataset/streams@dataset.val.streams=8_clients
centralized.stream_id=null llm_config.global_train_batch_size=256
llm_config.device_train_microbatch_size=auto llm_config.precision=amp_bf16
llm_config.model.attn_config.attn_impl=flash ~llm_config.fsdp_config
llm_config.device_eval_batch_size=256 llm_config.eval_subset_num_batches=1
++llm_config.device_eval_microbatch_size=auto ++llm_config.tp_config=null
llm_config.eval_interval=51ba llm_config.save_interval=51ba llm_config.eval_first=false
llm_config.console_log_interval=100ba ~llm_config.loggers.wandb ~llm_config.loggers.tensorboard"""
EVALUATION_BASE = """llm_config=mpt-125m dataset=fed-c4 dataset.train.root_local=DATA/fed-c4
dataset.val.root_local=DATA/fed-c4 dataset/streams@dataset.train.streams=1_client_small
dataset/streams@dataset.val.streams=1_client_small centralized.stream_id=null
centralized.eval_only=true +wte_parameters_path=null llm_config.max_duration=0ba
llm_config.scheduler.schedulers.lr.t_max=0ba llm_config.scheduler.schedulers.lr.t_warmup=0ba
llm_config.save_interval=200ba llm_config.console_log_interval=100ba llm_config.eval_first=true
llm_config.eval_interval=250ba llm_config.eval_subset_num_batches=-1
++llm_config.device_eval_microbatch_size=auto llm_config.device_eval_batch_size=256
llm_config.device_train_microbatch_size=auto llm_config.model.attn_config.attn_impl=torch
run_uuid=RUN icl_tasks_config=tasks_v0.3 eval_gauntlet_config=eval_gauntlet_v0.3
eval_gauntlet_config.destination_dir=DATA/eval icl_tasks_config.root_dir=DATA"""

MODEL = """llm_config.model.d_model=16 llm_config.model.n_heads=2 llm_config.model.n_layers=1
llm_config.model.vocab_size=300 llm_config.max_seq_len=32 photon.threads=1 photon.workers=0"""
SHORT = """llm_config.global_train_batch_size=8 llm_config.device_eval_batch_size=4
llm_config.precision=fp32"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """fed-c4/c8/en for eight clients, of text that the test makes."""
    home = tmp_path_factory.mktemp("published")
    folder = home / "text"
    folder.mkdir()
    for number in range(160):
        words = " ".join(f"word{(number * 7 + k) % 50}" for k in range(60))
        (folder / f"{number:03d}.txt").write_text(words)
    out = home / "fed-c4" / "c8" / "en"
    code = run(["prepare", "--source", str(folder), "--out", str(out), "fl.n_total_clients=8",
                "--train-tokenizer", "vocab_size=300", "llm_config.max_seq_len=32"])  # fmt: skip
    assert code == 0
    return home


def words(*lists: str, data: Path, home: Path, run_uuid: str) -> list[str]:
    text = " ".join(lists).replace("DATA", str(data)).replace("RUN", run_uuid)
    return [word.replace("=DIR", f"={home}") for word in text.split()]


def of(home: Path, run_uuid: str):
    config, _ = read_run(home / run_uuid)
    return config, read_lines(home / run_uuid / "metrics.jsonl")


def test_the_federated_base(data, tmp_path):
    stage = f"photon.saving_path={tmp_path} dataset.train.root_local={data}/fed-c4/c8/en"
    scaled = f"{MODEL} {SHORT} fl.n_rounds=3 llm_config.precision=amp_fp16 {stage}"
    given = words(FEDERATED_BASE, scaled, data=data, home=tmp_path, run_uuid="base")
    assert run(["train", *given]) == 0
    config, lines = of(tmp_path, "base")
    assert [line["round"] for line in lines] == [0, 1, 2, 3], "eval_first scores the start"
    assert lines[-1]["step"] == 3
    assert config.federation.outer_arguments == {
        "server_learning_rate": 1.0,
        "server_momentum": 0.0,
    }
    rates = [line["client_metrics"]["0"]["learning_rate"] for line in lines[1:]]
    assert rates == pytest.approx([6e-4 * (step + 1) / 100 for step in range(3)]), "warm-up"


def test_the_federated_example(data, tmp_path):
    scaled = f"""{MODEL} {SHORT} fl.n_rounds=2 llm_config.local_steps=4ba
        llm_config.scheduler.schedulers.lr.t_max=8ba
        llm_config.scheduler.schedulers.lr.t_warmup=2ba"""
    given = words(FEDERATED_BASE, FEDERATED_EXAMPLE, scaled, data=data, home=tmp_path, run_uuid="f")
    assert run(["train", *given]) == 0
    config, lines = of(tmp_path, "f")
    assert [line["accepted"] for line in lines] == [list(range(8))] * 2
    assert lines[-1]["step"] == 8
    assert lines[-1]["tokens"] == 8 * 8 * 8 * 32
    assert config.inner.optimizer.name == "adopt"
    assert "val_loss" in lines[-1]
    assert "val_loss" not in lines[0]
    rate = lines[-1]["client_metrics"]["3"]["learning_rate"]
    import math

    cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (7 - 2) / (8 - 2)))
    assert rate == pytest.approx(6e-4 * cosine)


@pytest.mark.parametrize("example", [False, True])
def test_the_centralised_lists(data, tmp_path, example):
    lists = [CENTRALISED_BASE, *([CENTRALISED_EXAMPLE] if example else [])]
    if not example:
        lists.append(f"dataset.train.root_local={data}/fed-c4/c8/en")
    scaled = f"""{MODEL} {SHORT} photon.saving_path={tmp_path} fl.n_total_clients=8
        llm_config.max_duration=6ba llm_config.scheduler.schedulers.lr.t_max=6ba
        llm_config.scheduler.schedulers.lr.t_warmup=2ba llm_config.eval_interval=3ba
        llm_config.save_interval=3ba"""
    cooldown = "++llm_config.scheduler.schedulers.lr.t_cooldown=2ba" if example else ""
    given = words(*lists, scaled, cooldown, data=data, home=tmp_path, run_uuid="c")
    assert run(["train", "--centralized", *given]) == 0
    config, lines = of(tmp_path, "c")
    assert [line["step"] for line in lines] == ([3, 6] if example else [0, 3, 6])
    assert all("val_loss" in line for line in lines)
    if example:
        assert config.inner.algorithms.gradient_clipping is None
        assert config.inner.sharding is None
        assert config.inner.optimizer.name == "decoupled_adamw"
        last = 6e-4 * (1 - ((5 - 4) / 2) ** 0.5)
    else:
        import math

        last = 6e-4 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (5 - 2) / (6 - 2))))
    assert lines[-1]["learning_rate"] == pytest.approx(last)


def test_the_evaluation_list_evaluates_the_model_it_is_given(data, tmp_path, capsys):
    """The original evaluated random parameters; without a model the list is refused."""
    start = f"""llm_config=mpt-125m {MODEL} {SHORT} run_uuid=start photon.saving_path={tmp_path}
        dataset.train.root_local={data}/fed-c4/c8/en llm_config.max_duration=2 fl.n_total_clients=8
        llm_config.scheduler.schedulers.lr.t_warmup=1"""
    assert run(["train", "--centralized", *start.split()]) == 0
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"context": "word1 word2", "continuation": "word3"}) + "\n")
    light = (
        "icl_tasks_config.icl_tasks=[{label:words,dataset_uri:tasks.jsonl,num_fewshot:[0],"
        "icl_task_type:language_modeling}]"
    )
    scaled = f"""{MODEL} {SHORT} photon.saving_path={tmp_path} fl.n_total_clients=1 {light}
        icl_tasks_config.root_dir={tmp_path} eval_gauntlet_config=empty"""
    given = words(EVALUATION_BASE, scaled, data=data, home=tmp_path, run_uuid="e")
    assert run(["train", "--centralized", *given]) == 2
    assert "would evaluate random parameters" in capsys.readouterr().err
    named = f"pretrained_model_path={tmp_path}/start"
    assert run(["train", "--centralized", *given, named]) == 0
    _, lines = of(tmp_path, "e")
    assert [line["step"] for line in lines] == [0]
    assert "metrics/words/0-shot/accuracy" in lines[0]
