"""Learning-rate schedules: pure functions of the step of the run.

Each gives the factor on the peak learning rate for the update that follows `step` finished ones.
The warm-up is linear and counts the step that is being taken, (step + 1) / t_warmup, so that no
update is wasted on a rate of zero. Past t_max every schedule stays at its floor alpha_f.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from photon.config.llm import LrSchedule


def cosine_with_warmup(step: int, *, t_warmup: int, t_max: int, alpha_f: float) -> float:
    """Warm-up, then half a cosine down to alpha_f at t_max.

    With f = (step - t_warmup) / (t_max - t_warmup):
    alpha_f + (1 - alpha_f) (1 + cos(pi f)) / 2 (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < t_warmup:
        return (step + 1) / t_warmup
    fraction = min(1.0, (step - t_warmup) / max(1, t_max - t_warmup))
    return alpha_f + (1 - alpha_f) * 0.5 * (1 + math.cos(math.pi * fraction))


def _with_cooldown(
    step: int, t_warmup: int, t_max: int, t_cooldown: int, fall: Callable[[float], float]
) -> float:
    """Warm-up, a plateau at 1, and `fall` of the finished fraction of the cool-down."""
    if step < t_warmup:
        return (step + 1) / t_warmup
    begun = step - (t_max - t_cooldown)
    if begun <= 0 and step < t_max:
        return 1.0
    return fall(min(1.0, begun / t_cooldown) if t_cooldown else 1.0)


def linear_cooldown(
    step: int, *, t_warmup: int, t_max: int, t_cooldown: int, alpha_f: float
) -> float:
    """Constant, then linear to alpha_f over the last t_cooldown steps."""
    return _with_cooldown(
        step, t_warmup, t_max, t_cooldown, lambda f: alpha_f + (1 - alpha_f) * (1 - f)
    )


def sqrt_cooldown(
    step: int, *, t_warmup: int, t_max: int, t_cooldown: int, alpha_f: float
) -> float:
    """Constant, then alpha_f + (1 - alpha_f) (1 - sqrt(f)) (Hägele et al. 2024, eq. 2)."""
    return _with_cooldown(
        step, t_warmup, t_max, t_cooldown, lambda f: alpha_f + (1 - alpha_f) * (1 - math.sqrt(f))
    )


def warmup_stable_decay(
    step: int, *, t_warmup: int, t_max: int, t_cooldown: int, alpha_f: float
) -> float:
    """Constant, then exponentially, alpha_f^f (Hu et al. 2024, arXiv:2404.06395, section 4)."""
    return _with_cooldown(step, t_warmup, t_max, t_cooldown, lambda f: alpha_f**f)


COOLDOWNS = {
    "constant_with_linear_cooldown_with_warmup": linear_cooldown,
    "constant_with_sqrt_cooldown_with_warmup": sqrt_cooldown,
    "warmup_stable_decay": warmup_stable_decay,
}


def lr_factor(schedule: LrSchedule, step: int) -> float:
    """The factor of a resolved schedule (no null among its lengths)."""
    assert schedule.t_warmup is not None
    assert schedule.t_max is not None
    lengths = {"t_warmup": schedule.t_warmup, "t_max": schedule.t_max}
    alpha_f = schedule.alpha_f or 0.0
    if schedule.name == "cosine_with_warmup":
        return cosine_with_warmup(step, alpha_f=alpha_f, **lengths)
    assert schedule.t_cooldown is not None
    cooldown = COOLDOWNS[schedule.name]
    return cooldown(step, t_cooldown=schedule.t_cooldown, alpha_f=alpha_f, **lengths)
