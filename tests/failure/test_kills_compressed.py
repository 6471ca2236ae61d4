"""Killed while something that is fed back is being written: every rung goes on bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_kills_behind import ROUND_2, assert_sound, given, kill, outcome, run_until_killed

import photon
from photon.points import CODECS

MIXED = {upload: "int4" for upload, rung in CODECS.items() if rung.bits < 0.5}
"""Codecs that are none for moments -> one that is."""
PLACES = ["containers, no manifest", "base and own, no manifest"]


def keys_of(name: str) -> list[str]:
    return [
        f"fl.compression.upload={name}",
        f"fl.compression.download={name}",
        f"fl.compression.moments={MIXED.get(name, name)}",
    ]


@pytest.mark.parametrize(
    ("name", "where"), [(name, PLACES[i % 2]) for i, name in enumerate(CODECS) if name != "fp32"]
)
def test_a_rung_goes_on_as_if_nothing_had_happened(data_root, tmp_path, name, where):
    whole = photon.train(given(data_root, tmp_path / "whole", *keys_of(name), "photon.workers=0"))
    at, until, _ = ROUND_2[where]
    home = tmp_path / "killed_run"
    home.mkdir()
    arguments = given(data_root, home, *keys_of(name), "photon.workers=0")
    run_until_killed(home, kill(home, at, until), arguments)
    photon.resume(home / "run")
    assert_sound(home / "run", outcome(Path(whole.folder)))


GOING_ON = [
    ["fl.overlap=eager", "fl.fragments=2", *keys_of("int4")],
    ["fl.overlap=delayed", "fl.overlap_steps=1", "fl.fragment_alpha=0.5", *keys_of("bf16")],
]


@pytest.mark.parametrize(("keys", "where"), list(zip(GOING_ON, PLACES, strict=True)), ids=str)
def test_clients_that_go_on_do_so_after_a_kill_as_well(data_root, tmp_path, keys, where):
    whole = photon.train(given(data_root, tmp_path / "whole", *keys, "photon.workers=0"))
    at, until, _ = ROUND_2[where]
    home = tmp_path / "killed_run"
    home.mkdir()
    run_until_killed(home, kill(home, at, until), given(data_root, home, *keys, "photon.workers=0"))
    photon.resume(home / "run")
    assert_sound(home / "run", outcome(Path(whole.folder)))


@pytest.mark.parametrize(
    "keys",
    [
        ["fl.first_moment_period=2", "fl.second_moment_period=3"],
        ["fl.first_moment_period=1", "fl.second_moment_period=2", "fl.fragments=2"],
    ],
    ids=str,
)
def test_moments_at_their_own_periods_go_on_as_if_nothing_had_happened(data_root, tmp_path, keys):
    periods = [*keys_of("bf16"), *keys]
    whole = photon.train(given(data_root, tmp_path / "whole", *periods, "photon.workers=0"))
    at, until, _ = ROUND_2["base half written"]
    home = tmp_path / "killed_run"
    home.mkdir()
    arguments = given(data_root, home, *periods, "photon.workers=0")
    run_until_killed(home, kill(home, at, until, half=True), arguments)
    photon.resume(home / "run")
    assert_sound(home / "run", outcome(Path(whole.folder)))
