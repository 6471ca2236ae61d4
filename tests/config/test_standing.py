"""Every key of the original is honoured, automatic, or refused with a reason; none is ignored."""

from __future__ import annotations

import warnings

import pytest
from original_keys import DEFAULTS

from photon.config import load_config
from photon.config.compose import known_keys
from photon.config.reference import all_keys
from photon.config.standing import AUTOMATIC, standing_of
from photon.errors import ConfigError, PhotonNote

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


def test_no_automatic_key_hides_one_that_is_honoured():
    hidden = [key for key in HONOURED if standing_of(key) is not None]
    assert not hidden


def test_every_key_says_what_it_means():
    for one in all_keys():
        assert len(one.meaning) > 4, one.key
