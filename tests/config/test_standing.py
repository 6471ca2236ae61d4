"""Every key of the original is honoured, automatic, or refused with a reason; none is ignored."""

from __future__ import annotations

import warnings

import pytest
from original_keys import DEFAULTS

from photon.config import load_config
from photon.config.between.resume import apply_resume_overrides, check_resumable, digest, left_open
from photon.config.compose import known_keys, with_values
from photon.config.explain.reference import all_keys
from photon.config.standing import AUTOMATIC, standing_of
from photon.errors import ConfigError, MismatchedCheckpoint, PhotonNote
from photon.tracking.wandb_setup import effective_setup

HONOURED = set(known_keys())


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_key_of_the_original_has_one_standing(key):
    assert (key in HONOURED) != (standing_of(key) is not None), key


@pytest.mark.parametrize("key", [key for key, value in DEFAULTS.items() if "${" not in value])
def test_the_originals_default_is_accepted(key):
    """A note for what is automatic, silence for what is honoured."""
    value = DEFAULTS[key]
    text = f"++{key}='{value}'" if "/{" in value else f"++{key}={value}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_config([text])
    notes = [w for w in caught if issubclass(w.category, PhotonNote)]
    assert len(notes) == (key not in HONOURED)


@pytest.mark.parametrize("key", [key for key, one in AUTOMATIC.items() if one.only])
def test_what_an_automatic_key_cannot_do_is_refused(key):
    with pytest.raises(ConfigError, match="cannot be had by this key") as caught:
        load_config([f"++{key}=something_else"])
    assert key in str(caught.value)


LOGGERS = "llm_config.loggers"


@pytest.mark.parametrize(
    ("given", "wandb", "tensorboard"),
    [
        ("", False, False),
        (f"~{LOGGERS}.wandb ~{LOGGERS}.tensorboard use_wandb=false", False, False),
        (f"~{LOGGERS}", False, False),
        ("use_wandb=true", True, False),
        ("use_wandb=true wandb.setup.mode=disabled", False, False),
        (f"{LOGGERS}.wandb={{}}", True, False),
        (f"++{LOGGERS}.wandb.init_kwargs='${{wandb.setup}}'", True, False),
        (f"{LOGGERS}.tensorboard.flush_interval=5", False, True),
        (f"+{LOGGERS}.tensorboard={{}}", False, True),
        (f"{LOGGERS}.tensorboard={{}} ~{LOGGERS}.tensorboard", False, False),
    ],
)
def test_what_switches_trackers_on(given, wandb, tensorboard):
    config = load_config(given.split())
    assert (effective_setup(config.wandb_setup, {}) is not None) == wandb
    assert (config.inner.loggers.tensorboard is not None) == tensorboard


def test_the_loggers_own_setup_stands_in_place_of_the_other():
    keys = ["use_wandb=true", "wandb.setup.project=one"]
    setup = load_config([*keys, f"{LOGGERS}.wandb.init_kwargs.project=two"]).wandb_setup
    assert setup is not None
    assert setup.project == "two"


@pytest.mark.parametrize("key", ["id=a/b", "id=a:b", "project=a/b", "tags=['']", "mode=on"])
def test_what_wandb_would_refuse_is_refused(key):
    with pytest.raises(ConfigError, match=f"wandb.setup.{key.split('=')[0]}"):
        load_config([f"wandb.setup.{key}"])


def test_trackers_may_change_when_a_run_goes_on():
    saved = load_config()
    keys = ["use_wandb=true", "wandb.setup.mode=offline", f"{LOGGERS}.tensorboard.flush_interval=3"]
    changed = apply_resume_overrides(saved, keys)
    assert changed == load_config(keys)
    before, after = saved.values_by_key(), changed.values_by_key()
    assert digest(after) == digest(before)
    assert apply_resume_overrides(changed, [f"{LOGGERS}.tensorboard=null", "use_wandb=false"])
    filled = with_values(saved, left_open(after, before))
    assert filled.inner.loggers.tensorboard is None


def test_a_section_that_comes_or_goes_is_a_change():
    saved, clipping = load_config(), "llm_config.algorithms.gradient_clipping"
    without = load_config([f"~{clipping}"])
    for before, after in ((saved, without), (without, saved)):
        with pytest.raises(MismatchedCheckpoint, match=clipping):
            check_resumable(before.values_by_key(), after.values_by_key())


def test_no_automatic_key_hides_one_that_is_honoured():
    hidden = [key for key in HONOURED if standing_of(key) is not None]
    assert not hidden


def test_every_key_says_what_it_means():
    for one in all_keys():
        assert len(one.meaning) > 4, one.key
