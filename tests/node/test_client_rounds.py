"""How long a client trains in a round, and what it keeps for the next."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from run_results import KEPT, PLAIN, last, records, same, state_of

import photon
from photon.config import Config
from photon.config.resolve import resolve
from photon.errors import ConfigError
from photon.experiment import experiment
from photon.experiment.job import Job
from photon.node import client_host
from photon.run import checkpoint
from photon.run.participation import client_rows
from photon.run.preparation import prepare
from photon.run.run_data import RunData
from photon.training.parallel import ALONE


def data_of(config: Config) -> RunData:
    return RunData.of(config.data, config.inner, config.seed)


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
