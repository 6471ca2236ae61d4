"""Seconds by which a server decides: the system's, or those that a simulation makes up."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Gives seconds since some moment; never fewer than before."""
SYSTEM: Clock = time.monotonic
