"""What runs of `quality.py` would take over links, by `photon plan`'s arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quality_arms import Arm

from photon.config.schema import Config
from photon.core.walltime import FLOOR, LinkSpeed
from photon.experiment.plan import Estimate, Setting, make_estimate
from photon.model.flops import model_cost

MBIT = 1e6 / 8
LINKS = {"10 Mbit/s": 10 * MBIT, "100 Mbit/s": 100 * MBIT, "1 Gbit/s": 1000 * MBIT}
"""Bytes a second of each site and of the server, both ways."""
LATENCY = 0.025
"""Seconds one way."""
SITE = 50e9
"""Floating-point operations a second of a client: about one core."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rounds of one length: so many seconds each until that round is over."""

    until: int
    seconds: float


def estimate(config: Config, link: str) -> Estimate:
    """Of a run whose clients are one core each."""
    speed = LinkSpeed(up=LINKS[link], down=LINKS[link], latency=LATENCY)
    server = LinkSpeed(up=LINKS[link], down=LINKS[link])
    tokens = SITE / model_cost(config.inner).flops_per_token
    setting = Setting(link=speed, server=server, floor=FLOOR, tokens_per_second=tokens)
    return make_estimate(config, setting)


def planned(arm: Arm, configs: Sequence[Config]) -> dict[str, list[Span]]:
    """By link, the spans of a run, each of which has a configuration; one client alone has rounds
    of one step. Nothing of centralised runs, whose twins are data-parallel ones of as many clients
    as they are compared with, nor where the clock decides.
    """
    if arm.trains == "centralised" or arm.slow is not None:
        return {}
    return {link: [_span(arm, config, estimate(config, link)) for config in configs]
            for link in LINKS}  # fmt: skip


def _span(arm: Arm, config: Config, found: Estimate) -> Span:
    if arm.trains == "alone":
        return Span(config.inner.max_steps or 0, found.step_seconds)
    return Span(config.federation.rounds, found.federated.round_seconds)


def elapsed(spans: Iterable[Span], rounds: int) -> float:
    """Seconds until so many rounds are over."""
    seconds, begun = 0.0, 0
    for span in spans:
        seconds += max(0, min(rounds, span.until) - begun) * span.seconds
        begun = span.until
    return seconds


def data_parallel(config: Config) -> dict[str, Any]:
    """Seconds by link, and bytes, of the twin that exchanges gradients in every step."""
    found = {link: estimate(config, link).data_parallel for link in LINKS}
    return {
        "seconds": {link: round(one.seconds, 1) for link, one in found.items()},
        "bytes": next(iter(found.values())).total_bytes,
    }


def points(
    history: Iterable[Mapping[str, Any]], spans: Mapping[str, Sequence[Span]]
) -> list[dict[str, Any]]:
    """Where a run has got to whenever it was validated; without seconds where none are planned.

    Args:
        history: its records.
    """
    sent, found = 0, []
    for record in history:
        sent += record.get("bytes_up", 0) + record.get("bytes_down", 0)
        if "val_loss" in record:
            rounds = record.get("round", record["step"])
            seconds = {link: round(elapsed(own, rounds), 1) for link, own in spans.items()}
            kept = {key: record[key] for key in ("step", "tokens", "val_loss")}
            found.append({**kept, "bytes": sent, "seconds": seconds})
    return found
