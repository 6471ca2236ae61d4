"""Learning-rate schedules: pure functions of the step of the run."""

import math


def cosine_with_warmup(step: int, *, t_warmup: int, t_max: int, alpha_f: float) -> float:
    """Factor on the peak learning rate for the update that follows `step` finished ones.

    Linear from 1 / t_warmup to 1 over t_warmup steps, then half a cosine down to alpha_f at t_max,
    where it stays. With f = (step - t_warmup) / (t_max - t_warmup):
    alpha_f + (1 - alpha_f) (1 + cos(pi f)) / 2 (Loshchilov and Hutter 2017, eq. 5).
    """
    if step < t_warmup:
        return (step + 1) / t_warmup
    fraction = min(1.0, (step - t_warmup) / max(1, t_max - t_warmup))
    return alpha_f + (1 - alpha_f) * 0.5 * (1 + math.cos(math.pi * fraction))
