"""Whole numbers in given proportions."""

from __future__ import annotations

import numpy as np


def apportion(total: int, shares: np.ndarray) -> list[int]:
    """Whole numbers in the proportion of some shares that sum to a total: largest remainders."""
    exact = np.asarray(shares, dtype=np.float64) / np.sum(shares) * total
    counts = np.floor(exact).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()
