"""What a round tells of itself: norms, drift, angles and losses, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_results import PLAIN, records

import photon
from photon.errors import PhotonError
from photon.run import checkpoint
from photon.run.checkpoint import load_parameters


@pytest.mark.parametrize("tied", ["true", "false"])
def test_all_but_the_embeddings_are_merged_by_direction(smoke, tied):
    """After one round of the same updates; what is kept of a direction is longer than the mean."""
    keys = [*PLAIN, "fl.n_rounds=1", "fl.log_layer_norms=true",
            f"llm_config.model.tie_word_embeddings={tied}"]  # fmt: skip
    mean, turned = (
        records(photon.train(smoke(f"run_uuid={name}", f"fl.aggregation={name}", *keys)))[0][
            "gradient_layer_norms"
        ]
        for name in ("mean", "rda")
    )
    tables = {"embedding.weight", *(["head.weight"] if tied == "false" else [])}
    assert {name for name in mean if mean[name] == turned[name]} == tables
    assert all(turned[name] > mean[name] for name in mean.keys() - tables)


def test_numbers_of_a_round_by_hand(smoke):
    """Norms, drift and the angle to the step before, from the checkpoints."""
    keys = [*PLAIN, "fl.n_rounds=3", "fl.log_layer_norms=true", "fl.use_noise_scale_metric=true",
            "fl.strategy_name=nesterov", "llm_config.save_num_checkpoints_to_keep=9"]  # fmt: skip
    result = photon.train(smoke("run_uuid=n", *keys))
    folder = Path(result.folder) / "checkpoints"
    params = [flat(load_parameters(folder / f"round_{n:06d}.json")) for n in range(4)]
    lines = records(result)
    for number, line in enumerate(lines, start=1):
        assert line["parameter_norm"] == pytest.approx(float(params[number].norm()), rel=1e-6)
        norms = list(line["client_norms"].values())
        mean_square = sum(norm**2 for norm in norms) / 2
        drift = (mean_square - line["gradient_norm"] ** 2) ** 0.5
        assert line["consensus_distance"] == pytest.approx(drift, rel=1e-4)
        squares = [norm**2 for norm in line["gradient_layer_norms"].values()]
        assert sum(squares) ** 0.5 == pytest.approx(line["gradient_norm"], rel=1e-6)
        assert set(line["phase_seconds"]) >= {"wait", "train", "aggregate", "validate"}
        assert line["outer_momentum_norm"] > 0
        assert line["train_perplexity"] == pytest.approx(2.718281828 ** line["train_loss"])
    assert "cosine_to_last_step" not in lines[0]
    last_step = params[1] - params[2]
    # Nesterov: x' = x - 0.7 (g + 0.7 v), v = 0.7 v' + g, so g follows from three rounds of x.
    state = checkpoint.load_server_state(folder / "round_000002.json")
    momentum = flat(state.outer["momentum"])
    gradient = ((params[2] - params[3]) / 0.7 - 0.7 * 0.7 * momentum) / 1.7
    angle = float(torch.dot(gradient, last_step) / gradient.norm() / last_step.norm())
    assert lines[2]["cosine_to_last_step"] == pytest.approx(angle, abs=2e-3)


def flat(tree) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in tree.values()])


def test_unigram_metrics_are_the_loss_beyond_frequencies(smoke):
    result = photon.train(smoke("run_uuid=u", *PLAIN, "fl.use_unigram_metrics=true"))
    line = records(result)[-1]
    assert line["val_unigram_loss"] == pytest.approx(result.unigram.val_loss)
    beyond = line["val_loss"] - result.unigram.val_loss
    assert line["val_unigram_normalized_loss"] == pytest.approx(beyond)
    assert line["val_unigram_normalized_perplexity"] == pytest.approx(2.718281828**beyond)


def test_missing_frequencies_are_an_error_unless_they_may_be(smoke, data_root, tmp_path):
    import json
    import shutil

    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    path = root / "client_1/train/manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["unigram"]
    path.write_text(json.dumps(manifest))
    keys = [f"dataset.train.root_local={root}", *PLAIN, "fl.use_unigram_metrics=true"]
    with pytest.raises(PhotonError, match=r"client_1.*token frequencies"):
        photon.train(smoke("run_uuid=a", *keys))
    result = photon.train(smoke("run_uuid=b", *keys, "fl.allow_unigram_metrics_failures=true"))
    assert result.unigram is None
    assert "val_unigram_loss" not in records(result)[-1]


def test_the_first_parameters_are_scored_if_asked_for(smoke):
    result = photon.train(smoke("run_uuid=f", *PLAIN, "llm_config.eval_first=true"))
    first = records(result)[0]
    assert first["round"] == 0
    assert first["val_loss"] > records(result)[-1]["val_loss"]
    lone = photon.train(smoke("run_uuid=c", "llm_config.eval_first=true"), centralized=True)
    assert records(lone)[0]["val_loss"] == pytest.approx(first["val_loss"])
