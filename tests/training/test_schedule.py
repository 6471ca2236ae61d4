"""Schedules against their closed forms."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest

from photon.config import load_config
from photon.config.llm import LrSchedule
from photon.config.resolve import resolve, schedule_warning
from photon.errors import ConfigError
from photon.training.schedule import lr_factor

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


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"t_warmup=50 \+ t_cooldown=60 is more than t_max=100"):
        resolved(f"{KEY}.name=warmup_stable_decay", f"{KEY}.t_warmup=50", f"{KEY}.t_cooldown=60")
    with pytest.raises(ConfigError, match="alpha_f, which must be > 0"):
        resolved(f"{KEY}.name=warmup_stable_decay", f"{KEY}.alpha_f=0")
