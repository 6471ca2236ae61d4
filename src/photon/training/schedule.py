"""Learning-rate schedules: the inner one is a pure function of the step of the run.

It gives the factor on the peak learning rate for the update that follows `step` finished ones. The
warm-up is linear and counts the step that is being taken, (step + 1) / t_warmup, so that no update
is wasted on a rate of zero. Past t_max every schedule stays at its floor alpha_f.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from photon.config.federation import Federation
from photon.config.llm import LrSchedule
from photon.core.outer import outer_factor

FALLS: dict[str, Callable[[float, float], float]] = {
    "cosine_with_warmup": lambda f, floor: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * f)),
    "constant_with_linear_cooldown_with_warmup": lambda f, floor: floor + (1 - floor) * (1 - f),
    "constant_with_sqrt_cooldown_with_warmup": lambda f, floor: (
        floor + (1 - floor) * (1 - math.sqrt(f))
    ),
    "warmup_stable_decay": lambda f, floor: floor**f,
}
"""Schedule -> factor by the finished fraction f of the fall, 0 to 1, and the floor alpha_f.

Sources: Loshchilov and Hutter 2017, eq. 5; sqrt: Hägele et al. 2024, eq. 2; warmup_stable_decay: Hu
et al. 2024, arXiv:2404.06395, section 4.
"""


def lr_factor(schedule: LrSchedule, step: int) -> float:
    """The factor of a resolved schedule (no null among its lengths): a warm-up of t_warmup steps, a
    plateau at 1, a fall that ends at t_max. The cosine falls right after its warm-up.
    """
    warmup, end, length = schedule.t_warmup, schedule.t_max, schedule.t_cooldown
    assert warmup is not None
    assert end is not None
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name == "cosine_with_warmup":
        length = max(0, end - warmup)
    assert length is not None
    begun = step - (end - length)
    if begun <= 0 and step < end:
        return 1.0
    done = min(1.0, begun / length) if length else 1.0
    return FALLS[schedule.name](done, schedule.alpha_f or 0.0)


def outer_lr_factor(federation: Federation, round_number: int) -> float:
    """The factor of a round's outer learning rate."""
    one = federation.outer_schedule
    t_max = one.t_max or federation.rounds
    return outer_factor(one.name, round_number, t_max, one.t_warmup, one.alpha_f)
