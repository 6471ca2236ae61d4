"""What a run is warned of as it starts: keys that are allowed, and come to nothing."""

from __future__ import annotations

import pytest

from photon.config.resolve import resolve
from photon.experiment.refusals import overlap_warning, period_warning, reach_warning

ADAM = "llm_config.optimizer.name=adamw"
SGD = ("llm_config.optimizer.name=sgd", "fl.max_reach=0.5")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["fl.first_moment_period=5"], None),
        (["fl.first_moment_period=6"], "fl.first_moment_period=6: with fl.n_rounds=5 a parameter "
         "is sent 5 times, so first moments are never averaged"),
        (["fl.second_moment_period=4", "fl.fragments=2"], "is sent 3 times, so second moments"),
        (["fl.second_moment_period=null"], None),
        (["fl.second_moment_period=9", "fl.aggregate_momenta=false"], None),
    ],
)  # fmt: skip
def test_moments_whose_turn_never_comes_are_told(smoke, keys, said):
    found = period_warning(smoke(ADAM, "fl.n_rounds=5", *keys).averaging())
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (SGD, None),
        ((*SGD, "llm_config.algorithms.gradient_clipping=null"), "of sgd without"),
        ((ADAM, "fl.max_reach=0.5", "llm_config.optimizer.betas=[0.9,0.8]"), "of adamw with its"),
        ((SGD[0], "llm_config.algorithms.gradient_clipping=null"), None),
    ],
)
def test_a_bound_that_nothing_is_held_to_is_told(smoke, keys, said):
    config = smoke(*keys)
    found = reach_warning(config.federation, config.inner)
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["fl.overlap=eager", "photon.workers=2"], None),
        (["fl.overlap=none", "photon.workers=0"], None),
        (["fl.overlap=eager", "fl.overlap_steps=0", "photon.workers=0"], None),
        (["fl.overlap=eager", "photon.workers=0"], "fl.overlap=eager with photon.workers=0: "),
        (
            ["fl.overlap=delayed", "photon.devices_per_client=2", "photon.workers=1"],
            "photon.devices_per_client=2: ",
        ),
    ],
)
def test_steps_ahead_that_nobody_takes_are_told(smoke, keys, said):
    run = resolve(smoke(*keys), cores=4, accelerator=0, run_uuid="r")
    found = overlap_warning(run.federation, run.machine)
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")
