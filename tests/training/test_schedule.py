"""Schedules against their closed forms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest

from photon.config import load_config
from photon.config.between.resume import apply_resume_overrides
from photon.config.llm import LrSchedule
from photon.config.resolve import outer_schedule_warning, resolve, schedule_warning
from photon.errors import ConfigError, MismatchedCheckpoint
from photon.training.schedule import lr_factor, outer_lr_factor

LINEAR = "constant_with_linear_cooldown_with_warmup"
LENGTHS = {"t_warmup": 10, "t_max": 110, "t_cooldown": 40}
KEY = "llm_config.scheduler.schedulers.lr"


def factor_of(name: Any, step: int, **numbers: Any) -> float:
    return lr_factor(LrSchedule(name=name, **numbers), step)


def test_cosine_is_its_closed_form():
    def factor(step):
        return factor_of("cosine_with_warmup", step, t_warmup=10, t_max=110, alpha_f=0.1)

    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == 1.0
    assert factor(10) == 1.0
    assert factor(60) == pytest.approx(0.1 + 0.9 / 2)
    assert factor(35) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert factor(110) == factor(5000) == pytest.approx(0.1)
    assert factor_of("cosine_with_warmup", 0, t_warmup=0, t_max=1, alpha_f=0.5) == 1.0


SHAPES = {
    LINEAR: lambda f, a: a + (1 - a) * (1 - f),
    "constant_with_sqrt_cooldown_with_warmup": lambda f, a: a + (1 - a) * (1 - math.sqrt(f)),
    "warmup_stable_decay": lambda f, a: a**f,
}


@pytest.mark.parametrize("schedule", SHAPES)
@pytest.mark.parametrize("alpha_f", [0.0, 0.1])
def test_cooldowns_are_flat_then_fall(schedule, alpha_f):
    if schedule == "warmup_stable_decay" and not alpha_f:
        pytest.skip("falls to a positive floor only; the configuration says so")
    factor = partial(factor_of, schedule, **LENGTHS, alpha_f=alpha_f)
    assert [factor(s) for s in (0, 4, 9)] == [0.1, 0.5, 1.0]
    for step in (10, 40, 69, 70):
        assert factor(step) == 1.0, "no jump where the fall begins"
    for step in (71, 80, 90, 109):
        assert factor(step) == pytest.approx(SHAPES[schedule]((step - 70) / 40, alpha_f))
    for step in (110, 111, 10**6):
        assert factor(step) == pytest.approx(alpha_f)


def test_no_cooldown_ends_at_once():
    lengths = {"t_warmup": 0, "t_max": 10, "t_cooldown": 0, "alpha_f": 0.2}
    assert [factor_of(LINEAR, s, **lengths) for s in (0, 9, 10)] == [1.0, 1.0, pytest.approx(0.2)]


def resolved(*overrides: str):
    config = load_config(["fl.n_rounds=4", "llm_config.local_steps=25", *overrides])
    return resolve(config, cores=1, accelerator=False, run_uuid="r")


def test_a_configuration_names_its_schedule():
    config = resolved(f"{KEY}.name=constant_with_sqrt_cooldown_with_warmup",
                      f"{KEY}.t_cooldown=40ba", f"~{KEY}.alpha_f")  # fmt: skip
    schedule = config.inner.schedules.schedulers.lr
    assert (schedule.t_max, schedule.t_warmup, schedule.t_cooldown) == (100, 10, 40)
    assert lr_factor(schedule, 70) == pytest.approx(1 - math.sqrt(0.25))
    assert lr_factor(schedule, 100) == 0.0


def test_running_past_the_end_is_said():
    assert schedule_warning(resolved().inner) is None
    shorter = resolved(f"{KEY}.t_max=60ba", "llm_config.optimizer.lr=0.5")
    warning = schedule_warning(shorter.inner)
    assert warning is not None
    assert "t_max=60, the run at step 100" in warning
    assert "stays at 0.05" in warning


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_more_rounds_do_not_stretch_the_outer_schedule(name):
    """Also not those of a run that was cut short before."""
    keys = (f"fl.outer_schedule.name={name}", "fl.outer_schedule.alpha_f=0.1")
    saved = resolved("fl.n_rounds=6", *keys)
    cut = apply_resume_overrides(saved, ["fl.n_rounds=2"], lambda changed: {"fl.n_rounds": 2})
    longer = apply_resume_overrides(cut, ["fl.n_rounds=9"])
    factors = [outer_lr_factor(saved.federation, number) for number in range(1, 7)]
    assert factors == sorted(set(factors), reverse=True)
    found = [outer_lr_factor(longer.federation, number) for number in range(1, 10)]
    assert found == [*factors, *factors[-1:] * 3]
    assert outer_schedule_warning(saved.federation) is None
    warning = outer_schedule_warning(longer.federation)
    assert warning is not None
    assert "t_max=6, the run after round 9" in warning


def test_an_outer_schedule_may_be_longer_than_its_run():
    """Begun with the length that it is to have, a run that is made longer falls all the way."""
    keys = ("fl.outer_schedule.name=linear", "fl.outer_schedule.t_max=8")
    saved = resolved("fl.n_rounds=4", *keys)
    longer = apply_resume_overrides(saved, ["fl.n_rounds=8"])
    whole = resolved("fl.n_rounds=8", keys[0])
    for number in range(1, 9):
        assert outer_lr_factor(longer.federation, number) == outer_lr_factor(
            whole.federation, number
        )
    assert outer_schedule_warning(longer.federation) is None
    with pytest.raises(MismatchedCheckpoint, match=r"fl\.outer_schedule\.t_max: may not change"):
        apply_resume_overrides(saved, ["fl.n_rounds=8", "fl.outer_schedule.t_max=9"])


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"t_warmup=50 \+ t_cooldown=60 is more than t_max=100"):
        resolved(f"{KEY}.name=warmup_stable_decay", f"{KEY}.t_warmup=50", f"{KEY}.t_cooldown=60")
    with pytest.raises(ConfigError, match="alpha_f, which must be > 0"):
        resolved(f"{KEY}.name=warmup_stable_decay", f"{KEY}.alpha_f=0")
