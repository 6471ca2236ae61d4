"""Numbers about a round that do not change it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def data_parallel_bytes(num_parameters: int, num_workers: int, num_steps: int) -> int:
    """Bytes that all workers together send in data-parallel training with bf16 gradients.

    A ring all-reduce sends 2 (K - 1) / K of the gradient per worker and step (Patarasuk and Yuan
    2009), so 2 (K - 1) gradients of 2 bytes per parameter for all K workers.
    """
    return 2 * (num_workers - 1) * 2 * num_parameters * num_steps


def consensus_distance(norms: Sequence[float], weights: Sequence[float], mean_norm: float) -> float:
    """sqrt(sum_k w_k |x_k - x|^2 / sum_k w_k): how far the clients have drifted apart.

    Source: Kong et al. 2021, arXiv:2102.04828, eq. 4. Since x is the weighted mean, that is the
    weighted mean of |x_k|^2 minus |x|^2; pseudo-gradients do as well, since the base cancels.
    """
    square = sum(w * n**2 for w, n in zip(weights, norms, strict=True)) / sum(weights)
    return math.sqrt(max(0.0, square - mean_norm**2))


def noise_scale(
    before: Mapping[str, float], client_norms: Sequence[float], mean_norm: float, beta: float
) -> dict[str, float]:
    """Gradient noise scale in units of one client's round, from K clients and their mean.

    With G_s = mean_k |g_k|^2 and G_b = |mean g|^2, unbiased estimates are
    S = (G_s - G_b) / (1 - 1/K) of the noise's trace and |G|^2 = (K G_b - G_s) / (K - 1); their
    ratio is averaged over rounds as the ratio of two debiased moving averages (McCandlish et al.
    2018, arXiv:1812.06162, appendix A.1, with batches of 1 and K).

    Args:
        before: what the last round gave; empty at first.
        beta: decay of the averages.

    Returns:
        `rounds`, `trace`, `square` (biased averages), `raw`, `scale`; `before` for fewer than two
        clients. `raw` and `scale` are left out where an estimate of |G|^2 is not positive.
    """
    count = len(client_norms)
    if count < 2:
        return dict(before)
    small = sum(norm**2 for norm in client_norms) / count
    large = mean_norm**2
    trace = (small - large) / (1 - 1 / count)
    square = (count * large - small) / (count - 1)
    rounds = before.get("rounds", 0.0) + 1
    averages = {
        key: beta * before.get(key, 0.0) + (1 - beta) * value
        for key, value in (("trace", trace), ("square", square))
    }
    found = {"rounds": rounds, **averages}
    if square > 0:
        found["raw"] = trace / square
    if averages["square"] > 0:  # the debiasing factor 1 - beta^rounds cancels
        found["scale"] = averages["trace"] / averages["square"]
    return found
