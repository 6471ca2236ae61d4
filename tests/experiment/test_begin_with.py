"""Beginning with a copy of another run: what fits is taken over, what does not is said."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import photon
from photon.container.container import digest
from photon.core.trust.reputation import Reputation
from photon.errors import MismatchedCheckpoint, PhotonWarning, RunFolderError
from photon.experiment.experiment import train
from photon.node import client_host
from photon.run import checkpoint
from photon.run.checkpoint import (
    load_base,
    load_client_state,
    load_model,
    load_parameters,
    load_server_state,
    newest_checkpoint,
)
from photon.training.going_on import beginning

PLAIN = ["fl.compression=fp32", "fl.strategy_name=fedavg"]
KEPT = "fl.aggregate_momenta=false"
LAYERS = "blocks.0.*"


def last(result) -> dict[str, torch.Tensor]:
    return load_parameters(newest_checkpoint(Path(result.folder) / "checkpoints"))


def state_of(result, client: int):
    homes = Path(result.folder) / f"clients/client_{client}"
    return load_client_state(sorted(homes.glob("round_*.json"))[-1])


@pytest.fixture
def original(smoke):
    """Gives a finished run of two rounds, `one`."""

    def make(*keys: str) -> None:
        photon.train(smoke("run_uuid=one", *PLAIN, "fl.n_rounds=2", *keys))

    return make


COPY = ["run_uuid=two", "photon.restore_run_uuid=one", *PLAIN, "fl.n_rounds=3"]


def test_a_copy_with_another_outer_optimizer_begins_its_moments_afresh(smoke, original):
    """The third round is one of FedAdam's from where it starts, by the formula."""
    original(KEPT, "fl.strategy_name=NESTEROV")
    with pytest.warns(PhotonWarning, match="outer optimizer begins afresh: it was NESTEROV"):
        result = photon.train(smoke(*COPY, KEPT, "fl.strategy_name=FEDADAM"))
    folder = Path(result.folder)
    before, after = (load_parameters(folder / f"checkpoints/round_00000{n}.json") for n in (2, 3))
    plain = photon.train(smoke(*COPY, "run_uuid=three", KEPT, "fl.strategy_name=FEDAVG"))
    averaged = last(plain)  # FedAvg's step is the mean pseudo-gradient itself
    for name, value in before.items():
        gradient = value - averaged[name]
        second = 0.99 * 1e-6 + 0.01 * gradient**2
        expected = value - 0.01 * 0.1 * gradient / (second.sqrt() + 1e-3)
        torch.testing.assert_close(after[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("before", "now"),
    [(["llm_config.optimizer.name=adamw"], ["llm_config.optimizer.name=muon"]),
     (["llm_config.optimizer.name=muon"], ["llm_config.optimizer.name=adamw"]),
     (["llm_config.optimizer.name=adamw"], ["llm_config.optimizer.name=adopt"]),
     (["fl.aggregate_momenta=false"], ["fl.aggregate_momenta=true"]),
     ([], ["fl.second_moment_period=null"]),
     ([f"fl.frozen_layers=[{LAYERS}]"], [])],
)  # fmt: skip
def test_averaged_moments_that_do_not_fit_are_refused_before_there_is_a_folder(
    smoke, original, tmp_path, before, now
):
    original(*before)
    with pytest.raises(MismatchedCheckpoint, match=r"averaged inner moments of .*pretrained_model"):
        photon.train(smoke(*COPY, *now))
    assert not (tmp_path / "runs" / "two").exists(), "the corrected command may have the name"


@pytest.mark.parametrize(
    ("before", "now", "reason"),
    [([KEPT, "llm_config.optimizer.name=adamw"], [KEPT, "llm_config.optimizer.name=muon"],
      "moments are of adamw"),
     ([], [KEPT], "kept moments of other parameters, or none"),
     ([KEPT], [KEPT, "photon.copy_client_checkpoints=false"], "copy_client_checkpoints=false"),
     ([KEPT], [KEPT, f"fl.personalized_layers=[{LAYERS}]"], "other fl.personalized_layers")],
)  # fmt: skip
def test_clients_whose_states_do_not_fit_begin_afresh_and_it_is_said(
    smoke, original, before, now, reason
):
    original(*before)
    with pytest.warns(PhotonWarning, match=f"clients begin afresh: .*{reason}"):
        result = photon.train(smoke(*COPY, *now))
    state = state_of(result, 0)
    rows = smoke().inner.local_steps * smoke().inner.batch_rows
    assert (state.stream.epoch, state.stream.cursor) == (0, rows), "the data from its first row"
    assert state.optimizer_step == smoke().inner.local_steps


@pytest.mark.parametrize(
    ("key", "before", "now", "stay"),
    [("llm_config.optimizer.name", "sgd", "adamw", False), ("fl.fragments", 1, 2, False),
     ("llm_config.optimizer.lr", 0.01, 0.02, True)],
)  # fmt: skip
def test_updates_of_another_kind_are_not_judged_by_the_norms_of_before(
    smoke, original, key, before, now, stay
):
    """Those of SGD are a hundredth of AdamW's, so that every update was one too large."""
    original(KEPT, f"{key}={before}", "fl.n_clients_per_round=1")
    two = photon.train(smoke(*COPY, KEPT, f"{key}={now}", "fl.n_clients_per_round=1"))
    state = load_server_state(newest_checkpoint(Path(two.folder) / "checkpoints"))
    assert len(state.norms) == (3 if stay else 1)


def test_what_a_copy_no_longer_measures_of_updates_says_nothing_in_it(smoke, original, tmp_path):
    """Without scores nobody would ever let a client out of quarantine before its last round."""
    original()
    path = newest_checkpoint(tmp_path / "runs" / "one" / "checkpoints")
    out, noise = Reputation(quarantined={0: 9}), {"scale": 2.0, "raw": 1.0}
    judged = replace(load_server_state(path), reputation=out, noise=noise)
    checkpoint.save_server_state(path.parent, judged)
    two = photon.train(smoke(*COPY, "fl.accept_failures_cnt=1"))
    record = two.history[-1]
    assert record["accepted"] == [0, 1]
    assert "noise_scale" not in record


def test_a_copy_of_another_model_is_refused_by_its_key(smoke, original, tmp_path):
    original()
    with pytest.raises(MismatchedCheckpoint, match=r"llm_config\.model.n_heads is 2 there, 1 here"):
        photon.train(smoke(*COPY, "llm_config.model.n_heads=1"))
    assert not (tmp_path / "runs" / "two").exists()


DIFFERENCES = "fl.compression.download=bf16"


@pytest.mark.parametrize(
    ("before", "now", "is_kept"),
    [([DIFFERENCES], [DIFFERENCES], True), ([DIFFERENCES], [], False), ([], [DIFFERENCES], False)],
)  # fmt: skip
def test_clients_of_a_copy_hold_what_those_of_the_original_did(
    smoke, original, before, now, is_kept
):
    """Where both send differences; or else what the server has itself."""
    original(KEPT, *before)
    folder = Path(photon.train(smoke(*COPY, KEPT, *now)).folder)
    first = folder / "checkpoints/round_000002.json"
    source = folder.parent / "one/checkpoints/round_000002.json"
    theirs, ours = load_server_state(source), load_server_state(first)
    assert digest(ours.params) == digest(theirs.params)
    assert bool(theirs.held) == bool(before)
    held = theirs.held if is_kept else {}
    assert (digest(ours.held), digest(load_base(first).params)) == (
        digest(held), digest({**theirs.params, **held}),
    )  # fmt: skip
    assert bool(load_server_state(folder / "checkpoints/round_000003.json").held) == bool(now)


def test_a_copy_may_begin_to_average_its_rounds_or_end_it(smoke, original):
    """Whether or not there was an average before, the momentum goes on."""
    original(KEPT)
    plain = photon.train(smoke(*COPY, KEPT))
    averaging = photon.train(smoke(*COPY, "run_uuid=three", KEPT, "fl.ema_decay=0.6"))
    begun = Path(averaging.folder) / "checkpoints"
    before, after = (load_parameters(begun / f"round_00000{n}.json") for n in (2, 3))
    assert digest(after) == digest(last(plain))
    expected = {name: 0.6 * value + 0.4 * after[name] for name, value in before.items()}
    torch.testing.assert_close(load_model(begun / "round_000003.json"), expected)
    ended = ("run_uuid=four", "photon.restore_run_uuid=three", "photon.resume_round=2")
    assert digest(last(photon.train(smoke(*COPY, *ended, KEPT)))) == digest(after)


def test_a_copy_with_another_outer_optimizer_keeps_the_average(smoke, original):
    original(KEPT, "fl.ema_decay=0.6")
    there = Path(smoke().machine.runs_folder) / "one" / "checkpoints" / "round_000002.json"
    with pytest.warns(PhotonWarning, match="outer optimizer begins afresh"):
        adam = photon.train(smoke(*COPY, KEPT, "fl.ema_decay=0.6", "fl.strategy_name=FEDADAM"))
    begun = Path(adam.folder) / "checkpoints"
    after = load_parameters(begun / "round_000003.json")
    expected = {n: 0.6 * v + 0.4 * after[n] for n, v in load_model(there).items()}
    torch.testing.assert_close(load_model(begun / "round_000003.json"), expected)


@pytest.mark.parametrize("now", ["int2", "bf16"])
def test_what_another_rung_has_lost_is_not_fed_back_and_it_is_said(smoke, original, now):
    """It may be more than the new one sends at once. With the same rung it is taken over."""
    upload = "fl.compression.upload=topk:1/64"
    original(KEPT, upload)
    with pytest.warns(PhotonWarning, match="topk:1/64 in .*one, is " + now):
        other = photon.train(smoke(*COPY, KEPT, f"fl.compression.upload={now}"))
    same = photon.train(smoke(*COPY, "run_uuid=three", KEPT, upload))
    stays = [load_client_state(Path(one.folder) / "clients/client_0/round_000002.json")
             for one in (other, same)]  # fmt: skip
    assert not stays[0].residual
    assert any(value.any() for value in stays[1].residual.values())
    assert stays[0].stream == stays[1].stream
    moments = [{name: digest(tree) for name, tree in one.moments.items()} for one in stays]
    assert moments[0] == moments[1]
    assert moments[0]


@pytest.mark.parametrize("kind", ["frozen_layers", "personalized_layers"])
def test_clients_of_a_copy_hold_the_servers_values_of_what_is_sent_no_more(smoke, original, kind):
    original(KEPT, "fl.compression.download=int2")
    keys = (KEPT, "fl.compression.download=int2", f"fl.{kind}=[{LAYERS}]")
    folder = Path(photon.train(smoke(*COPY, *keys)).folder)
    state = load_server_state(folder / "checkpoints/round_000003.json")
    alone = {name for name in state.params if name.startswith("blocks.0.")}
    assert alone
    assert state.held.keys() == state.params.keys() - alone
    base = load_base(folder / "checkpoints/round_000003.json").params
    assert all(torch.equal(base[name], state.params[name]) for name in alone)


RESET = "fl.reset_optimizer=true"


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["fl.overlap=delayed"], ["fl.fragments=2"]),
        (["fl.fragments=2"], ["fl.fragments=3"]),
        (["fl.fragments=2", RESET], ["fl.fragments=2", RESET, f"fl.frozen_layers=[{LAYERS}]"]),
    ],
    ids=str,
)
def test_clients_of_a_copy_with_other_fragments_begin_at_the_servers_parameters(
    smoke, original, monkeypatch, before, now
):
    """By the source's groups some of what is a client's own had been merged, and some not."""
    original(KEPT, *before)
    begun: list[tuple[int, bool]] = []

    def watched(instruction, base, *given):
        found = beginning(instruction, base, *given)
        same = all(torch.equal(found.params[name], value) for name, value in base.items())
        begun.append((instruction.round, same))
        return found

    monkeypatch.setattr(client_host, "beginning", watched)
    with pytest.warns(PhotonWarning, match="clients begin at the server's parameters"):
        photon.train(smoke(*COPY, KEPT, *now, "photon.workers=0"))
    assert begun == [(3, True)] * 2


@pytest.mark.parametrize(
    "keys",
    [
        [KEPT, "fl.fragments=2", "fl.overlap=delayed"],
        ["fl.fragments=3"],
        ["fl.second_moment_period=null"],
        ["fl.first_moment_period=2", "fl.second_moment_period=3"],
    ],
    ids=str,
)
def test_a_copy_under_the_same_keys_goes_on_as_the_run_would_have(smoke, original, keys):
    """Also where not all moments have been averaged yet."""
    same = [*keys, "fl.n_rounds=4", "llm_config.save_num_checkpoints_to_keep=4"]
    original(*same)
    copied = photon.train(smoke(*COPY, *same, "photon.resume_round=2"))
    assert digest(last(copied)) == digest(last_of(smoke, "one"))


def last_of(smoke, name: str) -> dict[str, torch.Tensor]:
    return load_parameters(
        newest_checkpoint(Path(smoke().machine.runs_folder) / name / "checkpoints")
    )


def test_a_copy_may_begin_to_merge_asynchronously_and_keeps_its_momentum(smoke, original):
    """Merges of whole cohorts at equal speeds are rounds: the same bits."""
    original(KEPT)
    rounds = photon.train(smoke(*COPY, KEPT))
    merges = photon.train(smoke(*COPY, "run_uuid=three", KEPT, "fl.mode=async"))
    assert digest(last(merges)) == digest(last(rounds))


def test_a_copy_of_merges_into_rounds_is_refused(smoke, original, tmp_path):
    original(KEPT, "fl.mode=async", "fl.buffer=1")
    with pytest.raises(MismatchedCheckpoint, match=r"counts merges .* take fl.mode=async"):
        photon.train(smoke(*COPY, KEPT))
    assert not (tmp_path / "runs" / "two").exists()


def test_a_copy_that_was_cut_off_is_not_trained_from_random_parameters(
    smoke, original, monkeypatch, tmp_path
):
    original()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "two")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save_server_state", full)
        with pytest.raises(OSError, match="No space left"):
            photon.train(smoke(*COPY))
    with pytest.raises(RunFolderError, match=r"before it held its copy of one.*begin it again"):
        photon.resume(tmp_path / "runs" / "two")


@pytest.mark.parametrize("resumes", [False, True])
def test_a_copy_that_was_cut_off_begins_again(smoke, original, monkeypatch, tmp_path, resumes):
    """With nothing of the attempt before; `photon server` goes on with what is there."""
    original(KEPT)
    whole = photon.train(smoke(*COPY, KEPT, "run_uuid=three"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "save_server_state", killed)
        with pytest.raises(KeyboardInterrupt):
            photon.train(smoke(*COPY, KEPT))
    left = tmp_path / "runs" / "two" / "clients" / "left"
    left.mkdir()
    again = train(smoke(*COPY, KEPT), resumes=resumes)
    assert digest(last(again)) == digest(last(whole))
    assert not left.exists()
    with pytest.raises(RunFolderError, match="already holds a run"):
        photon.train(smoke(*COPY, KEPT))


def test_a_copy_that_has_begun_is_no_longer_made_anew(smoke, original, tmp_path):
    """Though its checkpoints are gone: it has a history."""
    original()
    folder = Path(photon.train(smoke(*COPY)).folder)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(RunFolderError, match="already holds a run"):
        photon.train(smoke(*COPY))
