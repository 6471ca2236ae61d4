"""The one table of options that cannot be had together."""

from __future__ import annotations

import pytest

from photon.config import load_config
from photon.config.compression import ladder, rounds_only
from photon.config.conflicts import CONFLICTS, OPTIONS, conflict_lines
from photon.config.explain.origin import explained
from photon.errors import ConfigError
from photon.points import CODECS, Rung

IN_USE = {
    "fold_updates": ["fl.fold_updates=true", "fl.compression=bf16"],
    "aggregation": ["fl.aggregation=rda"],
    "oversample": ["fl.oversample=1", "fl.n_clients_per_round=2"],
    "scoring": ["fl.scoring.enabled=true"],
    "scaling_fn": ["fl.scaling_fn=sqrt"],
    "privacy": ["fl.privacy.clip_norm=1"],
    "privacy.noise_by=clients": [
        "fl.privacy.clip_norm=1", "fl.privacy.noise_by=clients", "fl.compression.upload=bf16"
    ],
    "privacy.noise_by=server": ["fl.privacy.clip_norm=1", "fl.privacy.noise_by=server"],
    "aggregate_momenta": ["fl.aggregate_momenta=true"],
    "mode": ["fl.mode=async"],
    "staleness_exponent": ["fl.staleness_exponent=1"],
    "steps_by_speed": ["fl.steps_by_speed=true"],
    "n_local_epochs": ["fl.n_local_epochs=1"],
    "use_noise_scale_metric": ["fl.use_noise_scale_metric=true"],
    "compression.upload": ["fl.compression.upload=int4"],
    "secure_aggregation": ["fl.secure_aggregation=true"],
    "ema_decay": ["fl.ema_decay=0.9"],
    "random_layers": ["fl.random_layers=[embedding]", "fl.random_init_freq=8ba"],
    "overlap": ["fl.overlap=delayed"],
    "fragments": ["fl.fragments=2"],
    "fragment_alpha": ["fl.fragment_alpha=0.4"],
    "first_moment_period": ["fl.aggregate_momenta=true", "fl.first_moment_period=2"],
    "second_moment_period": ["fl.aggregate_momenta=true", "fl.second_moment_period=2"],
}  # fmt: skip
"""Overrides by which each option is in use."""


def test_every_option_of_the_table_is_shown_in_use_here():
    assert set(IN_USE) == set(OPTIONS)
    assert {name for row in CONFLICTS for name in row[:2]} == set(OPTIONS)


@pytest.mark.parametrize("row", CONFLICTS, ids=lambda row: f"{row.one}+{row.other}")
def test_what_the_table_says_is_refused_with_its_reason(row):
    for alone in (row.one, row.other):
        load_config(IN_USE[alone])
    with pytest.raises(ConfigError, match="exclude each other") as refused:
        load_config([*IN_USE[row.one], *IN_USE[row.other]])
    assert row.why in str(refused.value)


@pytest.mark.parametrize("given", ["first_moment_period=null", "split_eval=true", "overlap=eager"])
def test_a_refusal_shows_what_was_given_as_it_is_written(given):
    with pytest.raises(ConfigError, match=f"takes no {given}: "):
        load_config(["fl.mode=async", f"fl.{given}"])


def test_the_rows_of_an_option_are_printed():
    lines = list(conflict_lines("scoring"))
    assert len(lines) == sum("scoring" in row[:2] for row in CONFLICTS)
    told = explained("fl.scoring.rows", [])
    assert all(line in told for line in lines)
    of_parts = [line for line in conflict_lines("privacy") if "noise_by" in line]
    assert [line.strip().partition(":")[0] for line in of_parts] == [
        "fl.privacy.noise_by=clients with fl.compression.upload",
        "fl.privacy.noise_by=server with fl.secure_aggregation",
    ]
    assert "not together" not in explained("fl.n_rounds", [])


def test_what_an_asynchronous_server_does_without_is_listed_both_ways():
    of_mode = explained("fl.mode", ())
    assert "    fl.fragments: a late update is of another fragment" in of_mode
    assert "    fl.mode=async: a merge needs one update" in explained("fl.quorum", ())


def test_arguments_that_no_codec_can_do_with_are_refused_when_they_are_explained():
    with pytest.raises(ConfigError, match=r"^fl\.compression\.upload: top 65 of 64"):
        explained("fl.compression", ["fl.compression.upload=topk:65/64"])


def test_a_codec_of_ones_own_is_no_rounding_unless_it_says_so(monkeypatch):
    monkeypatch.setitem(CODECS, "own", Rung("photon.codecs.blocks:int8", {"block": 64}))
    monkeypatch.setitem(CODECS, "cast", Rung("photon.core.codec:BF16"))
    assert (rounds_only("own:8"), rounds_only("cast")) == (False, True)
    assert (
        load_config(["recipe=smoke", "fl.compression=own"]).federation.compression.download == "own"
    )
    noise = ["fl.privacy.clip_norm=1", "fl.privacy.noise_by=clients"]
    for keys in (["fl.fold_updates=true"], noise):
        with pytest.raises(ConfigError, match="compression"):
            load_config(["recipe=smoke", "fl.compression.upload=own", *keys])
    assert "? bits" in "".join(ladder())
