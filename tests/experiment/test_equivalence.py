"""What a federation must equal."""

from __future__ import annotations

from pathlib import Path

import pytest

import photon
from photon.container.container import digest
from photon.run import checkpoint
from photon.run.trackers import read_lines

FEDAVG = ["fl.strategy_name=fedavg", "fl.compression=fp32", "fl.aggregate_momenta=false"]


def final_params(result):
    return checkpoint.load_parameters(
        checkpoint.newest_checkpoint(Path(result.folder) / "checkpoints")
    )


def metrics_of(result) -> Path:
    return Path(result.folder) / "metrics.jsonl"


def difference(a, b) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


FAMILIES = {
    "llama": [],
    "mpt": ["llm_config.model.name=mpt_causal_lm"],
}


@pytest.mark.parametrize(
    ("family", "optimizer", "averaged"),
    [
        *[(family, name, "false") for family in FAMILIES for name in ("adamw", "adopt", "muon")],
        ("llama", "adamw", "true"),
        ("llama", "muon", "true"),
    ],
)
def test_one_client_is_centralised_training(smoke, family, optimizer, averaged):
    """Outer SGD with lr 1: 200 steps, losses to 1e-5.

    The inner state is kept by the client, or travels to the server and comes back as the mean of
    one.
    """
    shared = ["fl.n_total_clients=1", "llm_config.local_steps=20", "fl.n_rounds=10",
              f"llm_config.optimizer.name={optimizer}", "llm_config.optimizer.lr=0.002",
              "llm_config.optimizer.eps=1e-6", "llm_config.optimizer.betas=[0.9,0.95]",
              *FAMILIES[family],
              "llm_config.save_interval=20", "llm_config.eval_interval=20", *FEDAVG]  # fmt: skip
    travel = f"fl.aggregate_momenta={averaged}"
    federated = photon.train(smoke(*shared, travel, "run_uuid=fed"))
    central = photon.train(smoke(*shared, "run_uuid=cen"), centralized=True)
    assert federated.federated is not None
    assert central.centralized is not None
    assert federated.federated.tokens == central.centralized.tokens
    ours, theirs = (
        [(line["train_loss"], line["val_loss"]) for line in read_lines(metrics_of(result))]
        for result in (federated, central)
    )
    assert len(ours) == 10
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    assert ours[-1][1] < ours[0][1] - 0.1, "it learned, so the comparison means something"


def test_clients_with_one_sgd_step_are_one_data_parallel_step(smoke):
    shared = ["llm_config.optimizer.name=sgd", "llm_config.optimizer.lr=0.5",
              "llm_config.local_steps=1", "fl.n_rounds=6", "llm_config.max_duration=6",
              "llm_config.algorithms.gradient_clipping=null", *FEDAVG]  # fmt: skip
    federated = photon.train(smoke(*shared, "run_uuid=fed"))
    joined = ["llm_config.global_train_batch_size=4"]
    central = photon.train(smoke(*shared, *joined, "run_uuid=cen"), centralized=True)
    assert difference(final_params(federated), final_params(central)) < 1e-6
    untrained = photon.train(smoke(*shared, "run_uuid=one", "fl.n_rounds=1"))
    assert difference(final_params(untrained), final_params(central)) > 1e-3


@pytest.mark.parametrize("extra", [[], ["llm_config.optimizer.name=muon"], FEDAVG])
def test_worker_processes_give_the_bits_of_one_process(smoke, extra):
    shared = ["fl.n_total_clients=2", "fl.n_rounds=3", *extra]
    here = photon.train(smoke(*shared, "run_uuid=here"))
    workers = photon.train(smoke(*shared, "run_uuid=workers", "photon.workers=2"))
    assert digest(final_params(here)) == digest(final_params(workers))


def test_partial_participation_and_bytes(smoke, data_root):
    result = photon.train(
        smoke("fl.n_clients_per_round=1", "fl.n_rounds=4", "fl.aggregate_momenta=false",
              "fl.compression=bf16")
    )  # fmt: skip
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    chosen = [line["accepted"] for line in lines]
    assert {tuple(clients) for clients in chosen} == {(0,), (1,)}
    assert all(line["state_lost"] == [] for line in lines)
    for client in (0, 1):
        newest = sorted((Path(result.folder) / f"clients/client_{client}").glob("round_*.json"))[-1]
        state = checkpoint.load_client_state(newest)
        assert state.stream.cursor == chosen.count([client]) * 3 * 2, "each row was read once"
        assert state.optimizer_step == chosen.count([client]) * 3
    assert sent(result, "up", "gradient") == 4 * 2 * result.parameters
    assert sent(result, "down", "parameters") == 3 * 4 * result.parameters, "first: the seed's"
    assert result.federated is not None
    assert result.federated.tokens == 4 * 3 * 2 * 32


def sent(result, way: str, kind: str) -> int:
    """Bytes of all rounds; the kinds are all that a run has sent."""
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    kinds = [line["bytes_by_kind"][way] for line in lines]
    assert sum(sum(one.values()) for one in kinds) == getattr(result, f"bytes_{way}")
    return sum(one[kind] for one in kinds)


def test_moments_travel_and_are_counted(smoke):
    """AdamW's two moments triple what goes up; Muon has one for its matrices."""
    once = ["fl.n_rounds=1", "fl.compression=bf16"]
    adamw = photon.train(smoke("run_uuid=a", *once, "llm_config.optimizer.name=adamw"))
    assert sent(adamw, "up", "gradient") == 2 * 2 * adamw.parameters
    assert sent(adamw, "up", "moments") == 2 * 2 * 2 * adamw.parameters
    muon = photon.train(smoke("run_uuid=m", *once, "llm_config.optimizer.name=muon"))
    vectors_and_embedding = 300 * 16 + 3 * 16
    matrices = muon.parameters - vectors_and_embedding
    assert sent(muon, "up", "gradient") == 2 * 2 * muon.parameters
    assert sent(muon, "up", "moments") == 2 * 2 * (matrices + 2 * vectors_and_embedding)


def test_what_a_default_run_sends_is_what_its_codecs_make(smoke):
    """4 bits up and 4 down a number, 8 of moments; with a byte for each 64 and 4 for all of them,
    in tensors this small. The first parameters are the seed's.
    """
    result = photon.train(smoke("llm_config.optimizer.name=adamw"))
    sizes = [value.numel() for value in final_params(result).values()]

    def coded(bits: int) -> int:
        return sum(4 + -(-size // 64) + size * bits // 8 for size in sizes)

    assert sum(sizes) == result.parameters
    assert sent(result, "up", "gradient") == 2 * 2 * coded(4)
    assert sent(result, "up", "moments") == 2 * 2 * 2 * coded(8)
    assert sent(result, "down", "parameters") == 2 * coded(4)
    assert sent(result, "down", "moments") == 2 * 2 * coded(8)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "nesterov", "fedmom", "fedadagrad",
                                      "fedadam", "fedyogi"])  # fmt: skip
def test_every_strategy_trains(smoke, strategy):
    shared = ["fl.n_rounds=6", "llm_config.local_steps=6", "llm_config.optimizer.lr=0.01"]
    result = photon.train(smoke(*shared, f"fl.strategy_name={strategy}"))
    assert result.federated is not None
    losses = [x["val_loss"] for x in read_lines(Path(result.folder) / "metrics.jsonl")]
    assert losses[-1] < 5.65, "below the loss of the untrained model, ln 300 = 5.70"


def test_the_summary_is_the_result(smoke):
    from photon.run.results import read_summary, summary_of

    result = photon.train(smoke("compare.centralized=true", "compare.alone=true",
                                "compare.centralized_learning_rate=0.002",
                                "compare.alone_learning_rate=0.001"))  # fmt: skip
    assert read_summary(result.folder) == summary_of(result)
    assert result.federated is not None
    assert result.centralized is not None
    assert result.alone is not None
    assert result.centralized.tokens == result.federated.tokens == 2 * result.alone.tokens
    assert result.centralized.steps == result.federated.steps == result.alone.steps
    assert (result.centralized.learning_rate, result.alone.learning_rate) == (0.002, 0.001)
    assert result.unigram is not None
    assert 2 < result.unigram.val_loss < 5.7
