"""What a configuration will cost, on devices and links that the user describes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from photon.config.base import Epochs
from photon.config.schema import Config
from photon.core.walltime import (
    Exchange,
    Forecast,
    Link,
    Topology,
    forecast,
    local_steps_for,
    server_disk,
    server_memory,
    step_seconds,
)
from photon.errors import ConfigError
from photon.model.flops import ModelCost, model_cost, moment_elements, training_memory
from photon.runtime.device import PEAKS
from photon.runtime.outer import outer_of
from photon.runtime.preparation import with_architecture
from photon.training.outline import Traffic, traffic_of

GRADIENT_BYTES = 2
"""Of a parameter's gradient in data-parallel training: bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Devices and links.

    Attributes:
        link: of each site to the others; server: the server's.
        topology: how pseudo-gradients are exchanged.
        sites: places with a slow link between them; None: each client is one. The clients of a
            site exchange over `inside`, and the site sends one update.
        floor: seconds that a round takes beside training and transfers.
        device: a name of `photon.runtime.device.PEAKS`; mfu: the share of its peak that is reached.
        tokens_per_second: of a client, where it has been measured.
        price: of an hour of one device.
        overlap: share of an exchange that is hidden behind compute.
    """

    link: Link
    server: Link
    topology: Topology = "server"
    sites: int | None = None
    inside: Link | None = None
    floor: float = 0.0
    device: str = "H100"
    mfu: float = 0.4
    tokens_per_second: float | None = None
    price: float | None = None
    overlap: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run and its data-parallel twin, predicted.

    Attributes:
        federated, data_parallel: over the same tokens and sequential steps.
        step_seconds: of one local step.
        traffic: of one client and round.
        devices: of all clients of a round.
        memory: bytes, by where.
        disk: bytes, by where.
    """

    federated: Forecast
    data_parallel: Forecast
    step_seconds: float
    traffic: Traffic
    devices: int
    tokens: int
    parameters: int
    memory: dict[str, float]
    disk: dict[str, float]
    price: float | None

    def cost(self, forecast: Forecast) -> float | None:
        """Of all devices for the whole run, in the currency of the price."""
        hours = forecast.seconds / 3600
        return None if self.price is None else hours * self.devices * self.price

    def local_steps_for(self, utilization: float) -> int:
        return local_steps_for(utilization, self.step_seconds, self.federated.exchange_seconds)


def make_plan(config: Config, setting: Setting) -> Plan:
    """Predict a federated run.

    Raises:
        ConfigError: what is configured cannot be counted, or no such device is known.
    """
    steps = _local_steps(config)
    config = with_architecture(config)
    llm, fl = config.llm_config, config.fl
    cost = model_cost(llm)
    sent = traffic_of(config)
    seconds = _step_seconds(config, setting, cost)
    outside, inside = _exchanges(setting, fl.cohort_size, sent)
    return Plan(
        federated=forecast(
            rounds=fl.n_rounds, local_steps=steps, step_seconds=seconds, exchange=outside,
            inside=inside, overlap=setting.overlap, first_down=sent.first_down,
        ),
        data_parallel=forecast(
            rounds=fl.n_rounds * steps, local_steps=1, step_seconds=seconds,
            exchange=_every_step(setting, fl.cohort_size, cost), overlap=setting.overlap,
        ),
        step_seconds=seconds,
        traffic=sent,
        devices=fl.cohort_size * config.photon.devices_per_client,
        tokens=fl.n_rounds * steps * fl.cohort_size * config.llm_config.tokens_per_step,
        parameters=cost.parameters,
        memory=_memory(config, cost, sent.up),
        disk=_disk(config, cost, sent.up, setting.sites or fl.cohort_size),
        price=setting.price,
    )  # fmt: skip


def described(plan: Plan) -> dict[str, Any]:
    """A plan as JSON has it."""

    def facts(forecast: Forecast) -> dict[str, Any]:
        names = ("rounds", "compute_seconds", "exchange_seconds", "round_seconds", "round_bytes",
                 "seconds", "total_bytes", "utilization")  # fmt: skip
        return {**{n: getattr(forecast, n) for n in names}, "cost": plan.cost(forecast)}

    return {
        "parameters": plan.parameters,
        "tokens": plan.tokens,
        "devices": plan.devices,
        "step_seconds": plan.step_seconds,
        "update_bytes": asdict(plan.traffic),
        "federated": facts(plan.federated),
        "data_parallel": facts(plan.data_parallel),
        "memory_bytes": plan.memory,
        "disk_bytes": plan.disk,
    }


def _local_steps(config: Config) -> int:
    steps, epochs = config.llm_config.local_steps, config.fl.n_local_epochs
    if epochs or isinstance(steps, Epochs):
        raise ConfigError(
            "a plan needs local steps in batches or tokens, not epochs: give llm_config.local_steps"
        )
    return config.fl.n_local_steps or steps


def _step_seconds(config: Config, setting: Setting, cost: ModelCost) -> float:
    tokens = config.llm_config.tokens_per_step
    if setting.tokens_per_second is not None:
        return tokens / setting.tokens_per_second
    half, full = PEAKS[setting.device]
    peak = 1e12 * (full if config.llm_config.precision == "fp32" else half)
    devices = config.photon.devices_per_client
    return step_seconds(cost.flops_per_token, tokens, peak, setting.mfu, devices)


def _exchanges(setting: Setting, clients: int, sent: Traffic) -> tuple[Exchange, Exchange | None]:
    """Among the sites, and within one."""
    sites = setting.sites or clients
    if sites > clients:
        raise ConfigError(f"--sites {sites}: only {clients} clients take part in a round")
    outside = Exchange(
        topology=setting.topology,
        participants=sites,
        bytes_up=sent.up,
        bytes_down=sent.down,
        link=setting.link,
        server=setting.server,
        floor=setting.floor,
    )
    within = -(-clients // sites)
    if within == 1 or setting.inside is None:
        return outside, None
    inside = Exchange(
        topology="ring",
        participants=within,
        bytes_up=sent.up,
        bytes_down=sent.down,
        link=setting.inside,
    )
    return outside, inside


def _every_step(setting: Setting, clients: int, cost: ModelCost) -> Exchange:
    """Ring all-reduce of a gradient over the same links."""
    size = GRADIENT_BYTES * cost.parameters
    return Exchange(
        topology="ring",
        participants=setting.sites or clients,
        bytes_up=size,
        bytes_down=size,
        link=setting.link,
    )


def _moments(config: Config) -> int:
    import torch

    return len(outer_of(config, 1).init({"w": torch.zeros(1)}))


def _memory(config: Config, cost: ModelCost, payload: int) -> dict[str, float]:
    llm = config.llm_config
    rows = llm.device_train_microbatch_size
    memory = training_memory(llm, 1 if rows == "auto" else rows, cost)
    devices = config.photon.devices_per_client
    state = memory.weights + memory.gradients + memory.moments
    shards = llm.fsdp_config is not None and llm.fsdp_config.sharding_strategy != "NO_SHARD"
    return {
        "device": memory.total - (state - state / devices if shards else 0),
        "server": server_memory(cost.parameters, _moments(config), payload),
    }


def _disk(config: Config, cost: ModelCost, payload: int, clients: int) -> dict[str, float]:
    kept = config.checkpoints_kept
    state = 4 * (cost.parameters + moment_elements(config.llm_config.optimizer.name, cost))
    return {
        "server": server_disk(cost.parameters, _moments(config), payload, clients, kept),
        "client": 2 * (state + payload),  # the round it goes on from, and the newest
    }
