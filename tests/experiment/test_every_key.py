"""Every key changes something that is used, or says that it does not: none is without effect.

An effect is looked for where it is felt, never in the configuration itself: in parameters after
some steps, in what the outer step makes of an update, in the records and files of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from key_cases import CASES, GAUNTLET, LABELS, ONE_VALUE, SERVER, SHOWN
from observers import central, observed
from surroundings import prepared, wanted_of_hub

from photon.config.explain.idle import idle_overrides
from photon.config.explain.reference import all_keys

TESTS = Path(__file__).parents[1]

BEFORE: dict[Any, Any] = {}
"""What is observed without a key, by what observes it."""


@pytest.mark.parametrize("key", CASES)
def test_a_key_has_an_effect(key, make, tmp_path, monkeypatch):
    observe, beside, value = CASES[key]
    text = value if value.startswith(GAUNTLET) else f"{key}={value}"
    config = make("run_uuid=b", *beside, text)
    if (observe, beside) not in BEFORE:
        first, again = (
            observed(observe, make(f"run_uuid={name}", *beside), tmp_path, monkeypatch)
            for name in "ac"
        )
        assert first == again, "without the key, nothing differs"
        BEFORE[observe, beside] = first
    assert observed(observe, config, tmp_path, monkeypatch) != BEFORE[observe, beside]
    run = "centralized" if observe is central else "server" if key in SERVER else "federated"
    if observe not in (prepared, wanted_of_hub):  # which are of another command
        assert not list(idle_overrides(config, [text], run)), "and no note says that it has none"


def test_every_key_is_accounted_for():
    """By its own name: a key that is new has no effect until it is said here where to look."""
    keys = {one.key for one in all_keys()}
    known = [*CASES, *SHOWN, *ONE_VALUE, *LABELS]
    assert sorted(known) == sorted(keys)


@pytest.mark.parametrize("key", SHOWN)
def test_what_another_test_shows_is_there(key):
    file, _, name = SHOWN[key].partition("::")
    text = (TESTS / file).read_text()
    assert f"\ndef {name}(" in text
    assert key.rsplit(".", 1)[-1] in text
