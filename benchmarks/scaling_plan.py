"""Time, bytes and cost of models that no test trains, by `photon plan`'s arithmetic."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compression_arms import ways

from photon.config import load_config
from photon.core.walltime import FLOOR, Forecast, LinkSpeed
from photon.experiment.plan import Estimate, Setting, make_estimate
from photon.machine.quantity import parse_quantity

CLIENTS, LOCAL_STEPS = 8, 500
"""The presets' local steps."""
LATENCY, DEVICE, MFU = 0.05, "H100", 0.4
"""What `photon plan` supposes."""
PRICE = 2.5
"""Of an hour of an H100, in dollars: a supposition, not a quotation."""
LINKS = {"10 Gbit/s": "10Gbit", "1 Gbit/s": "1Gbit", "100 Mbit/s": "100Mbit"}
"""Of each site and of the server, both ways."""
KEPT = ("fl.aggregate_momenta=false",)
RUNGS: dict[str, tuple[str, ...]] = {
    "bf16 / fp32": ("fl.compression=bf16",),
    "int4 / int4": tuple(ways("int4", "int4")),
    "uniform:107/7 / uniform:75/11": tuple(ways("uniform:107/7", "uniform:75/11")),
    "topk:300/4096/1 / topk:480/4096/1": tuple(ways("topk:300/4096/1", "topk:480/4096/1")),
}
"""What goes up / what comes down: plain, the default, few levels, and one for long runs."""
NAMES = ("rounds", "compute_seconds", "exchange_seconds", "seconds", "round_bytes", "total_bytes",
         "utilization")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A preset as it is planned: its own batch shared by the clients, its own number of steps.

    Attributes:
        rows: of all clients in a step. devices: of a client.
    """

    preset: str
    rows: int
    steps: int
    devices: int

    def overrides(self, rung: str) -> list[str]:
        """Rounds hold the preset's steps, the last one some more."""
        return [
            f"llm_config={self.preset}",
            f"fl.n_total_clients={CLIENTS}",
            f"llm_config.global_train_batch_size={self.rows // CLIENTS}",
            f"llm_config.local_steps={LOCAL_STEPS}",
            f"fl.n_rounds={-(-self.steps // LOCAL_STEPS)}",
            f"photon.devices_per_client={self.devices}",
            *KEPT,
            *RUNGS[rung],
        ]


MODELS = {
    "125M": Model("mpt-125m", 256, 4800, 1),
    "1B": Model("mpt-1b", 512, 24_800, 8),
    "7B": Model("mpt-7b", 1024, 63_900, 8),
}


def setting_of(link: str, price: float) -> Setting:
    rate = parse_quantity(LINKS[link])
    return Setting(
        link=LinkSpeed(up=rate, down=rate, latency=LATENCY), server=LinkSpeed(up=rate, down=rate),
        floor=FLOOR, device=DEVICE, mfu=MFU, price=price,
    )  # fmt: skip


def command_of(overrides: list[str], link: str, price: float) -> str:
    """That says the same."""
    options = ["--bandwidth", LINKS[link], "--price", f"{price:g}", "--json"]
    return shlex.join(["photon", "plan", *options, *overrides])


def plans(price: float, models: dict[str, Model] = MODELS) -> Iterator[dict[str, Any]]:
    """A record of each model, rung and link: the federation beside its data-parallel twin."""
    for name, model in models.items():
        for rung in RUNGS:
            overrides = model.overrides(rung)
            config = load_config(overrides)
            for link in LINKS:
                found = make_estimate(config, setting_of(link, price))
                given = {"model": name, "link": link, "rung": rung, "clients": CLIENTS,
                         "local_steps": LOCAL_STEPS, "price": price}  # fmt: skip
                yield {"part": "plan", **given, **facts(found),
                       "plan": command_of(overrides, link, price)}  # fmt: skip


def facts(estimate: Estimate) -> dict[str, Any]:
    """What a line has of an estimate."""

    def of(run: Forecast) -> dict[str, Any]:
        return {**{name: getattr(run, name) for name in NAMES}, "cost": estimate.cost(run)}

    return {
        "parameters": estimate.parameters,
        "tokens": estimate.tokens,
        "devices": estimate.devices,
        "step_seconds": estimate.step_seconds,
        "up": estimate.traffic.up,
        "down": estimate.traffic.down,
        "federated": of(estimate.federated),
        "data_parallel": of(estimate.data_parallel),
    }
