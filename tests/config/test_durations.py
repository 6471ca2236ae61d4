"""Durations in batches, tokens and epochs: wherever one is taken, and nowhere else."""

from __future__ import annotations

import threading

import pytest

from photon.config import load_config
from photon.config.resolve import count_epochs
from photon.errors import ConfigError

T_MAX = "llm_config.scheduler.schedulers.lr.t_max"


def test_durations_in_tokens_are_counted_in_batches_wherever_they_are_taken():
    """Of 4 rows of 128 tokens; a part of a batch is one more."""
    keys = ["fl.random_init_freq", "llm_config.local_steps", T_MAX]
    found = load_config([f"{key}=1_000tok" for key in keys]).values_by_key()
    assert [found[key] for key in keys] == [2, 2, 2]


def test_durations_in_epochs_are_counted_in_batches_wherever_they_are_taken():
    keys = ["fl.random_init_freq", "llm_config.local_steps", T_MAX]
    config = load_config([f"{key}=2ep" for key in keys])
    found = count_epochs(config, lambda: [40, 80], centralized=False).values_by_key()
    assert [found[key] for key in keys] == [40, 40, 40]


def test_a_text_that_looks_like_a_duration_is_none():
    assert load_config(["llm_config.name=10tok"]).inner.name == "10tok"


def test_what_is_no_duration_is_refused_as_it_was_given():
    with pytest.raises(ConfigError, match=r"^llm_config.model.n_layers: .* got '9000tok'$"):
        load_config(["llm_config.model.n_layers=9000tok"])


def test_a_batch_of_no_size_is_named_before_what_is_counted_by_it():
    with pytest.raises(ConfigError, match=r"^llm_config.global_train_batch_size: .* got 0$"):
        load_config(["fl.random_init_freq=9tok", "llm_config.global_train_batch_size=0"])


@pytest.mark.parametrize(
    "key",
    [
        "fl.round_timeout", "fl.round_timeout_min", "photon.worker_timeout", "photon.join_timeout",
        "dataset.train.download_timeout",
        "s3_comm_config.backend_kwargs.client_config.connect_timeout",
        "s3_comm_config.backend_kwargs.client_config.read_timeout",
    ],
)  # fmt: skip
def test_seconds_that_no_clock_counts_are_refused(key):
    load_config([f"{key}={int(threading.TIMEOUT_MAX) // 10}"])
    with pytest.raises(ConfigError, match=rf"{key.rpartition('.')[2]}.*less than or equal to"):
        load_config([f"{key}=1e300"])
