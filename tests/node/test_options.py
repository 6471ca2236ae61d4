"""What a client keeps, trains and sends: each option against a run that must be the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

import photon
from loopback import final_digest
from photon.config import Config
from photon.config.resolve import resolve
from photon.container.container import digest
from photon.core.messages import Broadcast, Instruction
from photon.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MismatchedCheckpoint,
    PhotonError,
    RunFolderError,
)
from photon.experiment import experiment
from photon.experiment.job import Job
from photon.model.build import build_model, parameters_of
from photon.node import client_host
from photon.node.client_host import ClientHost
from photon.run import checkpoint
from photon.run.checkpoint import load_client_state, load_parameters, newest_checkpoint
from photon.run.outer import outer_of
from photon.run.participation import client_rows
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.run.trackers import read_lines
from photon.server import commits as server
from photon.server.loop import initial_state
from photon.server.redrawing import redraw, redrawn
from photon.training.layers import layers_of
from photon.training.parallel import ALONE

PLAIN = ["fl.compression=fp32", "fl.strategy_name=fedavg", "fl.n_rounds=2"]
KEPT = "fl.aggregate_momenta=false"
LAYERS = "blocks.0.*"


def last(result) -> dict[str, torch.Tensor]:
    return load_parameters(newest_checkpoint(Path(result.folder) / "checkpoints"))


def records(result) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def state_of(result, client: int):
    homes = Path(result.folder) / f"clients/client_{client}"
    return load_client_state(sorted(homes.glob("round_*.json"))[-1])


def data_of(config: Config) -> RunData:
    return RunData.of(config.data, config.inner, config.seed)


def kinds(lines, way: str, kind: str) -> list[int]:
    return [line["bytes_by_kind"][way][kind] for line in lines]


def same(left, right) -> bool:
    return digest(left) == digest(right)


def test_frozen_layers_stay_and_do_not_travel(smoke):
    config = smoke("run_uuid=f", *PLAIN, KEPT, f"fl.frozen_layers=[{LAYERS}]")
    first = parameters_of(build_model(config.inner, config.seed))
    result = photon.train(config)
    params = last(result)
    frozen = [name for name in params if name.startswith("blocks.0.")]
    assert frozen
    assert all(torch.equal(params[n], first[n]) for n in frozen)
    assert not any(torch.equal(params[n], first[n]) for n in params if n not in frozen)
    trained = sum(v.numel() for n, v in params.items() if n not in frozen)
    assert kinds(records(result), "up", "gradient") == [2 * 4 * trained] * 2


def test_unfrozen_layers_are_the_rest_of_the_frozen(smoke):
    config = smoke()
    names = list(parameters_of(build_model(config.inner, 0)))
    rest = ",".join(name for name in names if not name.startswith("blocks.0."))
    frozen = photon.train(smoke("run_uuid=f", *PLAIN, f"fl.frozen_layers=[{LAYERS}]"))
    unfrozen = photon.train(smoke("run_uuid=u", *PLAIN, f"fl.unfrozen_layers=[{rest}]"))
    assert same(last(frozen), last(unfrozen))


def test_a_frozen_layer_of_a_centralised_run_stays(smoke):
    config = smoke("llm_config.max_duration=3", f"fl.frozen_layers=[{LAYERS}]")
    first = parameters_of(build_model(config.inner, config.seed))
    params = last(photon.train(config, centralized=True))
    assert all(torch.equal(params[n], first[n]) for n in params if n.startswith("blocks.0."))
    assert not torch.equal(params["norm.weight"], first["norm.weight"])


def test_layers_of_one_client_are_those_of_plain_training(smoke):
    """With one client and FedAvg, what it keeps and what it sends are together its own model, to
    the rounding of x - (x - y).
    """
    one = ["fl.n_clients_per_round=1", "fl.n_total_clients=1", *PLAIN, KEPT]
    whole = last(photon.train(smoke("run_uuid=w", *one)))
    result = photon.train(smoke("run_uuid=p", *one, f"fl.personalized_layers=[{LAYERS}]"))
    own = state_of(result, 0).layers
    assert own
    first = parameters_of(build_model(smoke().inner, smoke().seed))
    for name, value in {**last(result), **own}.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)
        assert not torch.equal(value, first[name])


def test_personalized_layers_stay_apart_wherever_they_are_trained(smoke):
    keys = [*PLAIN, KEPT, f"fl.personalized_layers=[{LAYERS}]", "fl.split_eval=true",
            "fl.eval_period=1"]  # fmt: skip
    here = photon.train(smoke("run_uuid=h", *keys))
    there = photon.train(smoke("run_uuid=t", *keys, "photon.workers=2"))
    config = smoke()
    first = parameters_of(build_model(config.inner, config.seed))
    assert same(last(here), last(there))
    own = [state_of(here, client).layers for client in (0, 1)]
    assert all(same(own[c], state_of(there, c).layers) for c in (0, 1))
    assert not same(own[0], own[1])
    assert all(torch.equal(last(here)[name], first[name]) for name in own[0]), (
        "server has the first"
    )
    shared = sum(v.numel() for n, v in first.items() if n not in own[0])
    lines = records(here)
    assert kinds(lines, "up", "gradient") == [2 * 4 * shared] * 2
    assert kinds(lines, "down", "parameters") == [0, 2 * 4 * shared], "the first are the seed's"
    for line in lines:
        for metrics in line["client_metrics"].values():
            assert metrics["trained_val_loss"] < metrics["val_loss"], "its own part got easier"


def test_a_client_that_has_lost_its_own_layers_gets_nobody_elses(smoke, tmp_path):
    """They are not sent any more; it begins with the seeded ones."""
    keys = [*PLAIN, KEPT, f"fl.personalized_layers=[{LAYERS}]"]
    config = resolve(smoke(*keys), cores=1, accelerator=0, run_uuid="r")
    first = parameters_of(build_model(config.inner, config.seed))
    sent = {name: value for name, value in first.items() if not name.startswith("blocks.0.")}
    task = Instruction(
        run="r", round=2, client=1, first_step=0, local_steps=3, base_digest="d", last_accepted=1
    )
    node = ClientHost(config, tmp_path / "shared", torch.device("cpu"))
    node.train(replace(task, client=0, last_accepted=0), Broadcast(params=first)).result()
    after_another = node.train(task, Broadcast(params=sent)).result()
    by_itself = ClientHost(config, tmp_path / "alone", torch.device("cpu"))
    alone = by_itself.train(task, Broadcast(params=sent)).result()
    assert checkpoint.load_update(after_another).state_lost
    ours, theirs = (load_client_state(path).layers for path in (after_another, alone))
    assert same(ours, theirs), "nothing of client 0 is left"


@pytest.mark.parametrize("truly", [True, False])
def test_random_layers_are_drawn_anew_when_they_are_due(smoke, truly):
    """Every 6 steps, after two rounds of 3: the third round begins with other numbers."""
    keys = ["fl.random_layers=[norm.weight,embedding.weight]", "fl.random_init_freq=6",
            f"fl.truly_random_init={truly}", *PLAIN, "fl.n_rounds=3", "llm_config.local_steps=3",
            "llm_config.optimizer.lr=1e-12", "llm_config.optimizer.weight_decay=0",
            "llm_config.save_num_checkpoints_to_keep=9"]  # fmt: skip
    result = photon.train(smoke("run_uuid=r", *keys))
    config = smoke()
    first = parameters_of(build_model(config.inner, config.seed))
    folder = Path(result.folder) / "checkpoints"
    found = [load_parameters(folder / f"round_{n:06d}.json")["embedding.weight"] for n in range(4)]
    assert torch.allclose(found[1], first["embedding.weight"], atol=1e-9)
    again = torch.allclose(found[3], first["embedding.weight"], atol=1e-9)
    assert again is not truly
    deviation = float(first["embedding.weight"].std())
    assert float(found[3].std()) == pytest.approx(deviation, rel=0.02)
    other = load_parameters(folder / "round_000003.json")["blocks.0.attention.out.weight"]
    assert torch.allclose(other, first["blocks.0.attention.out.weight"], atol=1e-9)


def test_what_is_remembered_of_a_redrawn_layer_begins_anew(smoke):
    """FedAdam's second moment starts at tau squared, not at zero; clients hold the new values."""
    config = smoke("fl.strategy_name=fedadam", "fl.strategy_kwargs.tau=0.5",
                   "fl.random_layers=[norm.weight]", "fl.random_init_freq=3")  # fmt: skip
    params = parameters_of(build_model(config.inner, 1))
    outer = outer_of(config.federation, 1)
    state = initial_state(params, outer)
    used = {key: {n: v + 7 for n, v in tree.items()} for key, tree in state.outer.items()}
    layers = layers_of(config.federation, list(params))
    fresh = parameters_of(build_model(config.inner, 2))
    told = {name: value + 1 for name, value in params.items()}
    state = replace(state, outer=used, held=told, difference=told, difference_from="d")
    found = redraw(state, layers, fresh, outer)
    assert torch.equal(found.params["norm.weight"], fresh["norm.weight"])
    assert same(found.held, {**told, "norm.weight": fresh["norm.weight"]}), "clients get it whole"
    assert (found.difference, found.difference_from) == ({}, "")
    assert float(found.outer["second"]["norm.weight"].unique()) == pytest.approx(0.25)
    assert float(found.outer["momentum"]["norm.weight"].unique()) == 0.0
    kept = found.outer["second"]["embedding.weight"]
    assert torch.equal(kept, used["second"]["embedding.weight"])


def test_layers_are_drawn_once_however_few_steps_a_round_has(smoke):
    """What was drawn is trained, not drawn again in the round after, nor after a skipped one."""
    run = resolve(smoke("fl.random_layers=[norm.weight]", "fl.random_init_freq=1000"), cores=1,
                  accelerator=0, run_uuid="r")  # fmt: skip
    params = parameters_of(build_model(run.inner, 1))
    layers, drawn = layers_of(run.federation, list(params)), []
    state = initial_state(params, outer_of(run.federation, 1))
    for number, step in enumerate([960, 1000, 1040, 1080, 1080, 2020, 2060], start=1):
        before = replace(state, round=number, step=step)
        state = redrawn(run, before, layers)
        if state is not before:
            drawn.append(step)
    assert drawn == [1000, 2020]


def test_a_run_stopped_at_a_redraw_goes_on_with_the_same_numbers(smoke, tmp_path):
    keys = ["fl.random_layers=[embedding.weight]", "fl.random_init_freq=3", *PLAIN]
    whole = photon.train(smoke("run_uuid=w", *keys, "fl.n_rounds=3"))
    half = photon.train(smoke("run_uuid=h", *keys, "fl.n_rounds=3"))
    checkpoint_folder = Path(half.folder) / "checkpoints"
    (checkpoint_folder / "round_000003.json").unlink()
    assert same(last(photon.resume(half.folder)), last(whole))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["fl.frozen_layers=[nothing.like.it]"], "'nothing.like.it' matches no parameter"),
        (["fl.unfrozen_layers=[blocks.9*]"], "fl.unfrozen_layers: 'blocks.9*' matches no"),
        (["fl.frozen_layers=['*']"], "leave nothing to average"),
        (["fl.unfrozen_layers=[]"], "leave nothing to average"),
        (["fl.frozen_layers=[a]", "fl.unfrozen_layers=[b]"], "exclude each other"),
        (["fl.random_layers=[norm.weight]"], "set random_init_freq"),
        (["fl.personalized_layers=[norm.weight]", "fl.aggregate_momenta=true"], "cannot average"),
        (["fl.personalized_layers=[norm.weight]", "fl.reset_checkpoint=true"], "forgets the"),
        (["fl.personalized_layers=[norm.weight]", "fl.frozen_layers=[norm.*]"], "is frozen too"),
        (["fl.personalized_layers=[norm.weight]", "fl.random_layers=[norm.*]",
          "fl.random_init_freq=3"], "is random too"),
    ],
)  # fmt: skip
def test_layer_keys_that_cannot_be_had(smoke, tmp_path, keys, message):
    with pytest.raises(ConfigError) as caught:
        photon.train(smoke("run_uuid=r", *keys))
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists(), "nothing was begun"


def test_a_reset_of_the_data_reads_the_same_rows_again(smoke):
    result = photon.train(smoke("run_uuid=r", *PLAIN, "fl.reset_dataset_state=true"))
    assert state_of(result, 0).stream.cursor == 3 * 2
    assert state_of(photon.train(smoke("run_uuid=o", *PLAIN)), 0).stream.cursor == 2 * 3 * 2


def test_a_reset_of_the_timestamp_begins_the_schedule_anew(smoke):
    def rates(*keys: str) -> list[float]:
        lines = records(photon.train(smoke(*PLAIN, *keys)))
        return [line["client_metrics"]["0"]["learning_rate"] for line in lines]

    reset = rates("run_uuid=r", "fl.reset_timestamp=true")
    plain = rates("run_uuid=p")
    assert reset[0] == reset[1] == plain[0]
    assert plain[1] != plain[0]


def test_a_reset_checkpoint_is_a_reset_of_optimizer_and_data(smoke):
    keys = [*PLAIN, KEPT]
    all_at_once = photon.train(smoke("run_uuid=a", *keys, "fl.reset_checkpoint=true"))
    both = ["fl.reset_optimizer=true", "fl.reset_dataset_state=true"]
    assert same(last(all_at_once), last(photon.train(smoke("run_uuid=b", *keys, *both))))
    assert not same(last(all_at_once), last(photon.train(smoke("run_uuid=c", *keys))))


@pytest.mark.parametrize(
    ("keys", "is_kept"),
    [
        ([], True),
        (["fl.compression.residual_decay=0"], False),
        (["fl.reset_checkpoint=true"], False),
        (["fl.compression=bf16"], False),
    ],
    ids=str,
)
def test_what_a_codec_loses_is_kept_where_it_is_fed_back(smoke, keys, is_kept):
    home = Path(photon.train(smoke("run_uuid=r", "fl.n_rounds=1", KEPT, *keys)).folder)
    state = checkpoint.load_client_state(checkpoint.answer_path(home / "clients", 0, 1))
    assert bool(state.residual) == is_kept


def test_epochs_of_each_client_are_its_own(smoke, data_root):
    config = smoke("run_uuid=e", *PLAIN, "fl.n_rounds=1", "fl.n_local_epochs=1",
                   "llm_config.global_train_batch_size=64")  # fmt: skip
    rows = client_rows(data_of(config), 2)
    result = photon.train(config)
    (line,) = records(result)
    assert rows[0] // 64 != rows[1] // 64
    assert line["tokens"] == sum(count // 64 for count in rows) * 64 * 32
    assert line["step"] == max(rows) // 64
    other = photon.train(smoke("run_uuid=o", *PLAIN, "fl.n_rounds=1", "llm_config.local_steps=1ep",
                               "llm_config.global_train_batch_size=64"))  # fmt: skip
    assert same(last(result), last(other))


def test_other_names_of_the_local_steps(smoke):
    plain = photon.train(smoke("run_uuid=p", *PLAIN, "llm_config.local_steps=2"))
    other = photon.train(smoke("run_uuid=o", *PLAIN, "fl.n_local_steps=2"))
    tokens = photon.train(smoke("run_uuid=t", *PLAIN, "llm_config.local_steps=128tok"))
    assert same(last(plain), last(other))
    assert same(last(plain), last(tokens)), "2 steps of 2 rows of 32 tokens"
    with pytest.raises(ConfigError, match="give one of them"):
        smoke("fl.n_local_steps=2", "llm_config.local_steps=3ba")
    with pytest.raises(ConfigError, match="give one of them"):
        smoke("fl.n_local_epochs=2", "llm_config.local_steps=3ba")


def test_a_centralised_run_in_epochs(smoke):
    config = smoke("run_uuid=e", "llm_config.max_duration=1ep",
                   "llm_config.global_train_batch_size=256")  # fmt: skip
    rows = client_rows(data_of(config), 2)
    result = photon.train(config, centralized=True)
    assert result.centralized.steps == sum(rows) // 256
    alone = photon.train(smoke("run_uuid=a", "llm_config.max_duration=1ep",
                               "llm_config.global_train_batch_size=256",
                               "centralized.stream_id=1"), centralized=True)  # fmt: skip
    assert alone.alone.steps == rows[1] // 256


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


@pytest.mark.parametrize("back", [1, -2])
def test_a_run_that_goes_back_ends_as_it_did(smoke, monkeypatch, back):
    keys = [KEPT, "fl.n_rounds=3", "llm_config.save_num_checkpoints_to_keep=4",
            "fl.use_noise_scale_metric=true"]  # fmt: skip
    result = photon.train(smoke("run_uuid=r", *keys))
    folder = Path(result.folder)
    ended, lines = last(result), records(result)
    commit, committed = server.save_server_state, []
    monkeypatch.setattr(
        server, "save_server_state", lambda *what: committed.append(1) or commit(*what)
    )
    again = photon.resume(folder, [f"photon.resume_round={back}"])
    assert len(committed) == {1: 2, -2: 1}[back]
    assert same(last(again), ended)
    assert len(records(again)) == len(lines)
    for key in ("round", "noise_scale", "cosine_to_last_step"):
        assert [line.get(key) for line in records(again)] == [line.get(key) for line in lines], key
    assert all(line["state_lost"] == [] for line in records(again))


def test_a_round_that_is_not_kept_is_named_with_those_that_are(smoke):
    result = photon.train(smoke("run_uuid=r", "fl.n_rounds=3"))
    with pytest.raises(CheckpointError, match=r"photon.resume_round=1: .* which keeps 2, 3"):
        photon.resume(Path(result.folder), ["photon.resume_round=1"])
    assert len(records(result)) == 3, "nothing was lost"


def test_the_same_command_goes_on_or_starts(smoke):
    keys = ["run_uuid=r", "photon.resume_round=-1"]
    started = photon.train(smoke(*keys, "fl.n_rounds=1"))
    went_on = photon.train(smoke(*keys, "fl.n_rounds=2"))
    assert went_on.folder == started.folder
    assert [line["round"] for line in records(went_on)] == [1, 2]
    with pytest.raises(RunFolderError, match="no such run"):
        photon.train(smoke("run_uuid=other", "photon.resume_round=3"))


def test_the_same_command_goes_on_with_a_run_that_ended_before_its_first_checkpoint(
    smoke, monkeypatch
):
    def make():
        return photon.train(smoke("run_uuid=r", "photon.resume_round=-1"), centralized=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save_train_state", killed)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert make().centralized is not None


@pytest.mark.parametrize(
    "key",
    ["fl.n_local_steps=2", "llm_config.local_steps=1ep", "llm_config.max_duration=0",
     "fl.resize_vocab=320", "llm_config.local_steps=128tok"],
)  # fmt: skip
def test_the_same_command_goes_on_whatever_it_left_open(smoke, key):
    keys = ["run_uuid=r", "photon.resume_round=-1", "fl.n_rounds=1", key,
            "llm_config.global_train_batch_size=64"]  # fmt: skip
    photon.train(smoke(*keys))
    went_on = photon.train(smoke(*keys))
    assert [line["round"] for line in records(went_on)] == [1]


@pytest.mark.parametrize("with_clients", [True, False])
def test_a_run_that_begins_with_a_copy_ends_as_the_original(smoke, with_clients):
    keys = [KEPT, *PLAIN]
    result = photon.train(smoke("run_uuid=one", *keys, "fl.n_rounds=3",
                                "llm_config.save_num_checkpoints_to_keep=4"))  # fmt: skip
    copy = photon.train(
        smoke("run_uuid=two", *keys, "fl.n_rounds=3", "photon.restore_run_uuid=one",
              "photon.resume_round=1", f"photon.copy_client_checkpoints={with_clients}")
    )  # fmt: skip
    assert [line["round"] for line in records(copy)] == [1, 2, 3]
    assert same(last(copy), last(result)) is with_clients
    assert all(line["state_lost"] == [] for line in records(copy))
    with pytest.raises(RunFolderError, match="nosuch: no such run folder"):
        photon.train(smoke("run_uuid=three", *keys, "photon.restore_run_uuid=nosuch"))


def test_a_federation_that_begins_with_a_centralised_run(smoke):
    central = photon.train(smoke("run_uuid=c", "llm_config.max_duration=4",
                                 "llm_config.save_interval=2"), centralized=True)  # fmt: skip
    start = load_parameters(Path(central.folder) / "checkpoints/step_000002.json")
    keys = ["photon.restore_cent_run_uuid=c", "photon.restore_cent_run_batches=2", *PLAIN]
    result = photon.train(smoke("run_uuid=f", *keys, "llm_config.save_num_checkpoints_to_keep=9"))
    first = load_parameters(Path(result.folder) / "checkpoints/round_000000.json")
    assert same(first, start)
    with pytest.raises(CheckpointError, match=r"batches=3: not in .* keeps 2, 4"):
        photon.train(smoke("run_uuid=g", "photon.restore_cent_run_uuid=c",
                           "photon.restore_cent_run_batches=3"))  # fmt: skip


def test_embeddings_of_another_model(smoke):
    source = photon.train(smoke("run_uuid=s", *PLAIN))
    config = smoke("run_uuid=e", *PLAIN, f"wte_parameters_path={source.folder}", "seed=5",
                   "llm_config.save_num_checkpoints_to_keep=9")  # fmt: skip
    result = photon.train(config)
    first = load_parameters(Path(result.folder) / "checkpoints/round_000000.json")
    seeded = parameters_of(build_model(config.inner, 5))
    assert torch.equal(first["embedding.weight"], last(source)["embedding.weight"])
    assert all(torch.equal(first[n], seeded[n]) for n in seeded if n != "embedding.weight")
    with pytest.raises(PhotonError, match=r"embedding.weight has shape .*, expected"):
        photon.train(smoke("run_uuid=x", f"wte_parameters_path={source.folder}",
                           "llm_config.model.d_model=32"))  # fmt: skip


def test_a_larger_vocabulary_keeps_the_rows_of_the_smaller(smoke):
    source = photon.train(smoke("run_uuid=s", *PLAIN))
    size = len(last(source)["embedding.weight"])
    result = photon.train(
        smoke("run_uuid=v", *PLAIN, f"fl.resize_vocab={size + 20}", "seed=5",
              f"pretrained_model_path={source.folder}",
              "llm_config.save_num_checkpoints_to_keep=9")
    )  # fmt: skip
    first = load_parameters(Path(result.folder) / "checkpoints/round_000000.json")
    assert len(last(result)["embedding.weight"]) == size + 20
    assert torch.equal(first["embedding.weight"][:size], last(source)["embedding.weight"])
    assert torch.equal(first["norm.weight"], last(source)["norm.weight"])


def test_checkpoints_are_cleaned_up_as_asked(smoke):
    def kept(*keys: str) -> tuple[int, int]:
        result = photon.train(smoke("fl.n_rounds=4", *keys))
        folder = Path(result.folder)
        states = list((folder / "clients/client_0").glob("round_*.json"))
        return len(checkpoint.list_checkpoints(folder / "checkpoints")), len(states)

    assert kept("run_uuid=a", "llm_config.save_num_checkpoints_to_keep=3") == (3, 4)
    assert kept("run_uuid=b", "cleanup_checkpoints_per_round=true") == (1, 3)
    assert kept("run_uuid=c", "cleanup_checkpoints=true") == (1, 1)


def test_a_centralised_run_keeps_its_first_and_last_model(smoke):
    config = smoke("run_uuid=c", "llm_config.max_duration=3", "centralized.store_init_model=true",
                   "centralized.store_final_model=true", "centralized.split_eval=true")  # fmt: skip
    result = photon.train(config, centralized=True)
    folder = Path(result.folder) / "checkpoints"
    seeded = parameters_of(build_model(config.inner, config.seed))
    assert same(load_parameters(folder / "init_model.json"), seeded)
    assert same(load_parameters(folder / "final_model.json"), last(result))
    assert set(records(result)[-1]["client_val_loss"]) == {"0", "1"}


def test_eval_only_scores_the_model_that_was_named(smoke):
    source = photon.train(smoke("run_uuid=s", *PLAIN))
    result = photon.train(
        smoke("run_uuid=e", "centralized.eval_only=true", "seed=99",
              f"pretrained_model_path={source.folder}", "llm_config.max_duration=0ba",
              "llm_config.scheduler.schedulers.lr.t_max=0ba"),
        centralized=True,
    )  # fmt: skip
    assert result.centralized.val_loss == pytest.approx(source.federated.val_loss, abs=1e-6)
    assert result.centralized.steps == 0


def test_workers_are_started_anew_between_rounds(smoke):
    from photon.node.engine import WorkerPool

    started = []
    original = WorkerPool._start

    def counting(self):
        started.append(1)
        original(self)

    WorkerPool._start = counting
    try:
        fresh = photon.train(smoke("run_uuid=w", KEPT, "fl.n_rounds=3", "photon.workers=1",
                                   "photon.refresh_period=2"))  # fmt: skip
    finally:
        WorkerPool._start = original
    assert len(started) == 2
    assert same(last(fresh), last(photon.train(smoke("run_uuid=p", KEPT, "fl.n_rounds=3"))))


def test_a_run_comes_back_from_its_mirror(smoke, s3, tmp_path):
    import shutil

    bucket = s3("mirror").removeprefix("s3://")
    keys = [KEPT, "run_uuid=m", f"s3_comm_config.bucket_name={bucket}/runs"]
    whole = photon.train(smoke(KEPT, "run_uuid=w", "fl.n_rounds=3"))
    part = photon.train(smoke(*keys, "fl.n_rounds=2", "llm_config.max_duration=9",
                              "llm_config.scheduler.schedulers.lr.t_max=9"))  # fmt: skip
    shutil.rmtree(part.folder)
    back = photon.train(smoke(*keys, "fl.n_rounds=3", "photon.resume_round=-1",
                              "llm_config.scheduler.schedulers.lr.t_max=9"))  # fmt: skip
    assert [line["round"] for line in records(back)] == [1, 2, 3]
    assert same(last(back), last(whole))


def test_a_mirror_that_takes_nothing_is_known_before_a_run_is_made(smoke, s3, tmp_path):
    s3("other")
    with pytest.raises(DataError, match=r"s3_comm_config.bucket_name=none: .*no such bucket"):
        photon.train(smoke("run_uuid=m", "s3_comm_config.bucket_name=none"))
    assert not (tmp_path / "runs" / "m").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_to_be_found:make", "No module named 'nowhere_to_be_found'"),
        ("math:nothing", "has no attribute 'nothing'"),
        ("math:sqrt", "keyword argument"),
        ("builtins:dict", "must give a photon.core.outer.OuterOptimizer, gave dict"),
    ],
)
def test_an_own_outer_optimizer_that_is_none_is_named_before_the_run(
    smoke, tmp_path, name, message
):
    with pytest.raises(ConfigError, match=re.escape(message)):
        photon.train(smoke(f"fl.strategy_name={name}", "run_uuid=own"))
    assert not (tmp_path / "runs" / "own").exists()


def test_an_own_outer_optimizer_is_scheduled_and_gives_the_bits_of_ours(
    smoke, tmp_path, monkeypatch
):
    (tmp_path / "own_nesterov.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(*, lr, server_momentum):\n"
        "    return sgd(lr=lr, momentum=server_momentum, nesterov=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    keys = ["fl.strategy_kwargs.server_learning_rate=0.5", "fl.outer_schedule.name=linear",
            "fl.strategy_kwargs.server_momentum=0.6"]  # fmt: skip
    ours = photon.train(smoke("fl.strategy_name=nesterov", "run_uuid=ours", *keys))
    own = photon.train(smoke("fl.strategy_name=own_nesterov:make", "run_uuid=own", *keys))
    assert final_digest(own) == final_digest(ours)


def test_an_own_outer_optimizer_takes_arguments_by_any_name(smoke, tmp_path, monkeypatch):
    (tmp_path / "own_rho.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(*, lr, rho=0.9):\n"
        "    return sgd(lr=lr, momentum=rho, nesterov=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name, rate = "fl.strategy_name=own_rho:make", "fl.strategy_kwargs.server_learning_rate=0.5"
    own = photon.train(smoke(name, rate, "fl.strategy_kwargs.rho=0.6", "run_uuid=own"))
    same = ["fl.strategy_name=nesterov", "fl.strategy_kwargs.server_momentum=0.6"]
    ours = photon.train(smoke(*same, rate, "run_uuid=ours"))
    assert final_digest(own) == final_digest(ours)
    longer = [photon.resume(run.folder, {"fl.n_rounds": 3}) for run in (own, ours)]
    assert final_digest(longer[0]) == final_digest(longer[1])
    with pytest.raises(MismatchedCheckpoint, match=r"fl\.strategy_kwargs\.rho: may not change"):
        photon.resume(own.folder, {"fl.strategy_kwargs.rho": 0.7})
    with pytest.raises(
        ConfigError,
        match=r"kwargs\.rhoo: is no argument of .*; it takes server_learning_rate, rho$",
    ):
        photon.train(smoke(name, "+fl.strategy_kwargs.rhoo=0.6"))
    with pytest.raises(ConfigError, match=r"rho: Input should be a valid number"):
        smoke(name, "fl.strategy_kwargs.rho=much")
    with pytest.raises(ConfigError, match=r"kwargs\.rho is no argument of NESTEROV; it takes"):
        smoke("fl.strategy_kwargs.rho=0.6")


def test_a_client_with_fewer_rows_than_a_batch_is_named(smoke, data_root):
    """A batch of all of a client's rows and one more repeats a row; without it, none."""
    least = min(client_rows(data_of(prepare(smoke(), print)[0]), 2))

    def note(batch: int, centralized: bool = False) -> str | None:
        keys = ["fl.n_rounds=5", "llm_config.local_steps=3"]
        config = smoke(*keys, f"llm_config.global_train_batch_size={batch}")
        run = resolve(prepare(config, print)[0], cores=1, accelerator=0, run_uuid="r")
        job = SimpleNamespace(trains_elsewhere=False, world=ALONE)
        (found,) = experiment._rows_notes(run, centralized, cast(Job, job))[1:]
        return found

    assert note(least) is None
    found = str(note(least + 1))
    assert f"has {least} rows, but a batch takes {least + 1} of them" in found
    assert "about 15 times in this run" in found
    assert note(2 * least, centralized=True) is None
    assert f"a batch takes {least + 1} of them" in str(note(2 * least + 1, centralized=True))


def test_an_own_outer_optimizer_has_all_its_learning_rates_scheduled(smoke, tmp_path, monkeypatch):
    """The third of four rounds of a linear fall to zero in the fifth: 2 / 5."""
    (tmp_path / "own_rates.py").write_text(
        "from photon.core.outer import sgd\n"
        "def make(**given):\n"
        "    make.given = given\n"
        "    return sgd(lr=given['lr'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    kwargs = "fl.strategy_kwargs."
    config = smoke(
        "fl.strategy_name=own_rates:make", "fl.n_rounds=4", "fl.outer_schedule.name=linear",
        f"{kwargs}server_learning_rate=0.5", f"{kwargs}eta=0.1", f"{kwargs}tau=0.01",
    )  # fmt: skip
    outer_of(config.federation, 3)
    import own_rates  # pyright: ignore[reportMissingImports]

    assert own_rates.make.given == pytest.approx({"lr": 0.2, "eta": 0.04, "tau": 0.01})


@pytest.mark.parametrize(
    ("keys", "leaves"),
    [
        (("fl.reset_optimizer=true",), []),
        (("fl.aggregate_momenta=false",), ["kept"]),
        (("fl.aggregate_momenta=true",), ["moments"]),
    ],
)
def test_moments_leave_the_device_only_where_somebody_needs_them(smoke, monkeypatch, keys, leaves):
    seen = []
    make = client_host.outgoing
    monkeypatch.setattr(client_host, "outgoing", lambda *a: seen.append(make(*a)) or seen[-1])
    one = ("fl.n_rounds=1", "photon.workers=0", "llm_config.save_interval=64")
    photon.train(smoke("run_uuid=m", *one, *keys))
    found = [[part for part in ("kept", "moments") if getattr(out, part)] for out in seen]
    assert found == [leaves] * 2
