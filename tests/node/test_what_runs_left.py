"""Runs that go back to, go on from or begin with what a run has left, and what one keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_results import KEPT, PLAIN, last, records, same

import photon
from photon.errors import CheckpointError, DataError, PhotonError, RunFolderError
from photon.model.build import build_model, parameters_of
from photon.run import checkpoint
from photon.run.checkpoint import load_parameters
from photon.server import commits as server


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
