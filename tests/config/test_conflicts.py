"""The one table of options that cannot be had together."""

from __future__ import annotations

import pytest

from photon.config import load_config
from photon.config.conflicts import CONFLICTS, OPTIONS, conflict_lines
from photon.errors import ConfigError

IN_USE = {
    "fold_updates": ["fl.fold_updates=true", "fl.compression=bf16"],
    "aggregation": ["fl.aggregation=rda"],
    "oversample": ["fl.oversample=1", "fl.n_clients_per_round=2"],
    "scaling_fn": ["fl.scaling_fn=sqrt"],
    "secure_aggregation": ["fl.secure_aggregation=true"],
    "mode=async": ["fl.mode=async"],
    "staleness_exponent": ["fl.staleness_exponent=0.5"],
    "use_noise_scale_metric": ["fl.use_noise_scale_metric=true"],
}
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


def test_the_rows_of_an_option_are_printed():
    lines = list(conflict_lines("fold_updates"))
    assert len(lines) == sum("fold_updates" in row[:2] for row in CONFLICTS)
    assert len(list(conflict_lines())) == len(CONFLICTS)
