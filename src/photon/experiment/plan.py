"""What a configuration will cost, on devices and links that the user describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from photon.config.base import Epochs
from photon.config.compose import checked
from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.schema import Config
from photon.core.tree import num_bytes
from photon.core.walltime import (
    Exchange,
    Forecast,
    Handling,
    LinkSpeed,
    Topology,
    forecast,
    hidden_share,
    local_steps_for,
    step_seconds,
)
from photon.errors import ConfigError
from photon.experiment.disk import disk_of
from photon.machine.device import peak_of
from photon.model.flops import ModelCost, model_cost
from photon.privacy.terms import Promise, noise_warning, promise_of
from photon.run.outer import outer_trees
from photon.run.preparation import architecture_of
from photon.training.going_on import trees_kept
from photon.training.layers import num_trained
from photon.training.memory import Memory, Place, client_memory, server_memory
from photon.training.outline import Outline, RoundBytes, kept_codecs, outline_of, traffic_of
from photon.training.parallel import is_sharded

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
        device: a name of `photon.machine.device.PEAKS`; mfu: the share of its peak that is reached.
        tokens_per_second: of a client, where it has been measured.
        price: of an hour of one device.
        overlap: share of an exchange that is hidden behind compute.
        memory, disk: bytes a second that a machine moves in memory, and brings onto its disk.
    """

    link: LinkSpeed
    server: LinkSpeed
    topology: Topology = "server"
    sites: int | None = None
    inside: LinkSpeed | None = None
    floor: float = 0.0
    device: str = "H100"
    mfu: float = 0.4
    tokens_per_second: float | None = None
    price: float | None = None
    overlap: float = 0.0
    memory: float = 10e9
    disk: float = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A run and its data-parallel twin, predicted.

    Attributes:
        federated, data_parallel: over the same tokens and sequential steps.
        with_steps: the federated run with other local steps.
        step_seconds: of one local step.
        traffic: of one client and round.
        first_down: bytes that a client receives in the first round.
        devices: of all clients of a round.
        client: memory of a process that trains clients; server: of the server's process.
        disk: bytes, by where.
        privacy: what the run will promise; None: nothing.
        noise: what is to be said of its noise.
    """

    federated: Forecast
    data_parallel: Forecast
    with_steps: Callable[[int], Forecast]
    step_seconds: float
    traffic: RoundBytes
    first_down: int
    devices: int
    tokens: int
    parameters: int
    client: Memory
    server: Memory
    disk: dict[str, float]
    price: float | None
    privacy: Promise | None
    noise: str | None

    def cost(self, forecast: Forecast) -> float | None:
        """Of all devices for the whole run, in the currency of the price."""
        hours = forecast.seconds / 3600
        return None if self.price is None else hours * self.devices * self.price

    @property
    def memory(self) -> dict[str, int]:
        """Most bytes at once: of a device that trains, of the host beside it, of a host that trains
        on its CPU, and of the server.
        """
        places: tuple[Place, ...] = ("device", "host", "cpu")
        client = {place: self.client.peak(place) for place in places}
        return {**client, "server": self.server.peak("cpu")}

    def local_steps_for(self, utilization: float) -> int:
        return local_steps_for(utilization, lambda steps: self.with_steps(steps).utilization)


def make_estimate(config: Config, setting: Setting) -> Estimate:
    """Predict a federated run.

    Raises:
        ConfigError: what is configured cannot be counted, or no such device is known.
    """
    config.federation.require_every_fragment()
    steps = _local_steps(config.inner, config.federation)
    model = architecture_of(config.inner.model, config.federation.vocabulary)
    config = config.with_model(model)
    config = checked(Config, config.but(federation=config.averaging()).model_dump(mode="json"))
    inner, fl, each = config.inner, config.federation, config.machine.devices_per_client
    cost, outline, sent = model_cost(inner), outline_of(inner, fl), traffic_of(inner, fl)
    first_down = sent.first_down if config.trained_before else 0
    seconds, outer = _step_seconds(inner, each, setting, cost), outer_trees(fl)
    handling = _handling(setting, outline, sent, fl, outer)
    most_ahead = fl.most_ahead if each == 1 else 0  # several devices wait for the base together
    with_steps = partial(_federated, setting, fl, sent, seconds, most_ahead, first_down, handling)
    return Estimate(
        federated=with_steps(steps),
        with_steps=with_steps,
        data_parallel=_twin(setting, fl, num_trained(fl, outline.params), seconds, steps),
        step_seconds=seconds,
        traffic=sent,
        first_down=first_down,
        devices=fl.cohort_size * each,
        tokens=fl.rounds * steps * fl.cohort_size * inner.tokens_per_step,
        parameters=cost.parameters,
        client=_client(inner, fl, each),
        server=server_memory(inner, fl, outer),
        disk=disk_of(inner, fl, config.checkpoints_kept, setting.sites or fl.cohort_size),
        price=setting.price,
        privacy=promise_of(fl),
        noise=noise_warning(fl, outline.num_sent),
    )


def _federated(
    setting: Setting,
    fl: Federation,
    sent: RoundBytes,
    seconds: float,
    most_ahead: int,
    first_down: int,
    handling: Handling,
    steps: int,
) -> Forecast:
    """Of a run whose rounds have so many local steps, of so many seconds each."""
    outside, inside = _exchanges(setting, fl.cohort_size, sent)
    waited = outside.seconds + (inside.seconds if inside else 0.0)
    ahead = min(most_ahead, steps) * seconds
    return forecast(
        rounds=fl.rounds, local_steps=steps, step_seconds=seconds, exchange=outside,
        inside=inside, handling=handling, first_down=first_down,
        overlap=max(setting.overlap, hidden_share(waited, ahead)),
    )  # fmt: skip


def _twin(setting: Setting, fl: Federation, elements: int, seconds: float, steps: int) -> Forecast:
    """Of data-parallel training, which exchanges so many numbers after each step."""
    return forecast(
        rounds=fl.rounds * steps, local_steps=1, step_seconds=seconds,
        exchange=_every_step(setting, fl.cohort_size, elements), overlap=setting.overlap,
    )  # fmt: skip


def left_out(fl: Federation) -> list[str]:
    """What a run does that its estimate does not count, a line each."""
    found = []
    if fl.is_async:
        found.append(
            "fl.mode=async is counted as rounds in which all wait for all; `photon simulate` shows "
            "merges"
        )
    if fl.cohort_size < fl.population and fl.sends_differences:
        found.append(
            "who has missed rounds gets the differences of those too, or all parameters: what goes "
            "down is counted as if everybody had been in the round before"
        )
    return found


def described(estimate: Estimate) -> dict[str, Any]:
    """An estimate as JSON has it."""

    def facts(forecast: Forecast) -> dict[str, Any]:
        names = ("rounds", "compute_seconds", "exchange_seconds", "round_seconds", "round_bytes",
                 "seconds", "total_bytes", "utilization", "device_seconds")  # fmt: skip
        return {**{n: getattr(forecast, n) for n in names}, "cost": estimate.cost(forecast)}

    return {
        "parameters": estimate.parameters,
        "tokens": estimate.tokens,
        "devices": estimate.devices,
        "step_seconds": estimate.step_seconds,
        "update_bytes": asdict(estimate.traffic),
        "federated": facts(estimate.federated),
        "data_parallel": facts(estimate.data_parallel),
        "memory_bytes": estimate.memory,
        "memory_parts": {
            who: {stage.name: stage.parts("cpu") for stage in memory.stages}
            for who, memory in (("client", estimate.client), ("server", estimate.server))
        },
        "disk_bytes": estimate.disk,
        "privacy": None if estimate.privacy is None else asdict(estimate.privacy),
    }


def _local_steps(inner: Inner, federation: Federation) -> int:
    if federation.local_epochs or isinstance(inner.local_steps, Epochs):
        raise ConfigError(
            "a plan needs local steps in batches or tokens, not epochs: give llm_config.local_steps"
        )
    return federation.local_steps or inner.local_steps


def _step_seconds(inner: Inner, devices: int, setting: Setting, cost: ModelCost) -> float:
    tokens = inner.tokens_per_step
    if setting.tokens_per_second is not None:
        return tokens / setting.tokens_per_second
    peak = peak_of(setting.device, inner.precision)
    if peak is None:
        raise ConfigError(
            f"llm_config.precision={inner.precision}: {setting.device} has no such arithmetic; "
            "name another --device, or another precision"
        )
    return step_seconds(cost.flops_per_token, tokens, peak, setting.mfu, devices)


def _exchanges(
    setting: Setting, clients: int, sent: RoundBytes
) -> tuple[Exchange, Exchange | None]:
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


def _every_step(setting: Setting, clients: int, elements: int) -> Exchange:
    """Ring all-reduce of a gradient of so many numbers over the same links."""
    size = GRADIENT_BYTES * elements
    return Exchange(
        topology="ring",
        participants=setting.sites or clients,
        bytes_up=size,
        bytes_down=size,
        link=setting.link,
    )


def _handling(
    setting: Setting, outline: Outline, sent: RoundBytes, fl: Federation, outer: int
) -> Handling:
    """Every tensor that is read or written counts once: global and local parameters, moments, the
    update; on the server all updates, its state before and after, and the hash of the next base.
    """
    params = num_bytes(outline.params)
    kept = sum(map(num_bytes, outline.moments.values())) if fl.keeps_optimizer else 0
    kept += _fed_back(outline, fl) + _gone_on(outline, fl)
    told = 3 * params if fl.sends_differences else 0
    return Handling(
        load=params + kept,
        encode=2 * params + sent.up + kept,
        write=sent.up + kept,
        close=fl.cohort_size * sent.up + 2 * params * (1 + outer) + told + sent.down,
        memory=setting.memory,
        disk=setting.disk,
    )


def _fed_back(outline: Outline, fl: Federation) -> int:
    """Bytes of what a client keeps of its codec's losses."""
    is_lossy = kept_codecs(fl).gradient.cast is None
    return num_bytes(outline.params) if is_lossy and fl.feeds_back else 0


def _gone_on(outline: Outline, fl: Federation) -> int:
    """Bytes of the parameters that a client goes on from, and of those that it was told of."""
    return trees_kept(fl) * num_bytes(outline.params_of(outline.layers.shared))


def _client(inner: Inner, federation: Federation, devices: int) -> Memory:
    rows = 1 if inner.microbatch_rows == "auto" else inner.microbatch_rows
    memory = client_memory(inner, federation, rows)
    return memory.split_over(devices) if is_sharded(inner, devices) else memory
