"""`photon plan`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import Amount, Number, Quantity, json_option, overrides_argument
from photon.core.walltime import FLOOR
from photon.report.console import Console, beside, busy, duration, new_table
from photon.report.console import format_bytes as size

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from photon.core.walltime import Forecast
    from photon.experiment.plan import Estimate
    from photon.privacy.terms import Promise
    from photon.training.memory import Memory

RATE, SIZE = Quantity("1Gbit"), Quantity("80GB")


@click.command(name="plan")
@click.option("--bandwidth", type=RATE, default="1Gbit", show_default=True, help="Of each site.")
@click.option("--upload", type=RATE, help="Of each site, where it differs from --bandwidth.")
@click.option("--server-bandwidth", type=RATE, help="Of the server; default: as --bandwidth.")
@click.option("--latency", type=Amount(), default=0.05, show_default=True, help="Seconds, one way.")
@click.option(
    "--topology",
    type=click.Choice(["server", "all_reduce", "ring"]),
    default="server",
    show_default=True,
    help="How updates are exchanged; Photon's engines have a server.",
)
@click.option("--sites", type=click.IntRange(1), help="Sites that send one update; default: all.")
@click.option("--site-bandwidth", type=RATE, help="Between the machines of one site.")
@click.option("--floor", type=Amount(), default=FLOOR, show_default=True,
              help="Seconds of a round beside these.")  # fmt: skip
@click.option("--device", default="H100", show_default=True, help="What trains: H100, A100, L4...")
@click.option("--mfu", type=Number(0, 1, True), default=0.4, show_default=True,
              help="Share of the device's peak.")  # fmt: skip
@click.option("--tokens-per-second", type=Amount(is_positive=True),
              help="Of one client, if you have measured it.")  # fmt: skip
@click.option("--memory-speed", type=RATE, default="10GB", show_default=True,
              help="Bytes a second that a machine moves in memory.")  # fmt: skip
@click.option("--disk-speed", type=RATE, default="1GB", show_default=True,
              help="Bytes a second onto its disk.")  # fmt: skip
@click.option("--price", type=Amount(), help="Of an hour of one device.")
@click.option("--overlap", type=Number(0, 1), default=0.0, help="Hidden share, 0 to 1.")
@click.option("--target", type=Number(0, 1, True, True), default=0.9, show_default=True,
              help="Utilization that local steps are found for.")  # fmt: skip
@click.option("--device-memory", type=SIZE, help="What does not fit in it is said.")
@json_option
@overrides_argument
def command(overrides: tuple[str, ...], target: float, as_json: bool, **given: Any) -> None:
    """Say what a federation will take: time, bytes, memory, cost; and the data-parallel twin.

    \b
    photon plan llm_config=mpt-125m fl.n_total_clients=8 llm_config.local_steps=512
    photon plan llm_config=mpt-7b --bandwidth 10Gbit --sites 4 --site-bandwidth 100Gbit --price 2.5
    photon plan --tokens-per-second 21000 --bandwidth 100Mbit --target 0.95 --json
    """
    from photon.config import load_config
    from photon.experiment.plan import described, left_out, make_estimate
    from photon.node.microbatch import fits

    memory = given.pop("device_memory")
    assumed = _assumed(given)
    config = load_config(overrides)
    estimate, not_counted = make_estimate(config, _setting(given)), left_out(config.federation)
    needed = {"utilization": target, "local_steps": estimate.local_steps_for(target)}
    room = None if memory is None else fits(estimate.memory["device"], memory)
    if as_json:
        facts = {**described(estimate), "assumed": assumed, "target": needed, "fits_device": room,
                 "not_counted": not_counted}  # fmt: skip
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo("\n".join([f"assumes {assumed}", *(f"not counted: {one}" for one in not_counted)]))
    _print(estimate, needed, room, memory)


def _assumed(given: dict[str, Any]) -> str:
    """What stands for the machines, since an estimate knows nothing of this one."""
    speed = f"{given['device']}s at {given['mfu']:.0%} of their peak"
    if given["tokens_per_second"] is not None:
        speed = f"clients that train {given['tokens_per_second']:,.0f} tokens a second"
    return (
        f"{speed}, links of {size(given['bandwidth'])} a second, memory of "
        f"{size(given['memory_speed'])} and disks of {size(given['disk_speed'])} a second; not "
        "this machine: --tokens-per-second, --device, --bandwidth, --memory-speed, --disk-speed "
        "say otherwise"
    )


def _setting(given: dict[str, Any]) -> Any:
    from photon.core.walltime import LinkSpeed
    from photon.errors import ConfigError
    from photon.experiment.plan import Setting
    from photon.machine.device import PEAKS

    if given["device"] not in PEAKS and given["tokens_per_second"] is None:
        raise ConfigError(
            f"--device {given['device']}: no such entry; there are {', '.join(PEAKS)}; or give "
            "--tokens-per-second"
        )
    down, up, latency = given.pop("bandwidth"), given.pop("upload"), given.pop("latency")
    server, site = given.pop("server_bandwidth") or down, given.pop("site_bandwidth")
    return Setting(
        link=LinkSpeed(up=up or down, down=down, latency=latency),
        server=LinkSpeed(up=server, down=server),
        memory=given.pop("memory_speed"),
        disk=given.pop("disk_speed"),
        inside=None if site is None else LinkSpeed(up=site, down=site),
        **given,
    )


def _print(
    estimate: Estimate, needed: dict[str, Any], room: bool | None, device: float | None
) -> None:
    from photon.node.microbatch import HEADROOM

    console, each = Console(), estimate.traffic
    memory, disk = ({k: size(n) for k, n in m.items()} for m in (estimate.memory, estimate.disk))
    told = estimate.first_down
    first = f" ({size(told)} at first)" if told else " (nothing at first: the seed gives it)"
    console.print(
        f"{estimate.parameters:,} parameters, {estimate.tokens:,} tokens on "
        f"{estimate.devices} devices; a local step takes {duration(estimate.step_seconds)}\n"
        f"update {size(each.up)} up, {size(each.down)} down{first}, of each client and round"
    )
    console.print(_table(estimate))
    console.print(
        f"{_compared(estimate)}\n"
        f"{_devices(estimate.federated)}\n"
        f"{needed['utilization']:.0%} utilization needs {needed['local_steps']} local steps\n"
        f"memory    device {memory['device']} and {memory['host']} of its host, or "
        f"{memory['cpu']} of a host without one; server {memory['server']}\n"
        f"disk      server {disk['server']}, each client {disk['client']}"
    )
    if estimate.privacy is not None:
        console.print(f"privacy   {_promised(estimate.privacy)}")
    if estimate.noise is not None:
        console.print(estimate.noise)
    if room is False and device is not None:
        console.print(
            f"does not fit: a device has {size(device)}, of which {HEADROOM:.0%} may be filled; "
            "shard the model (photon.devices_per_client) or take smaller microbatches"
        )
    console.print(_memory_table(estimate.client, "a client on a CPU"))
    console.print(_memory_table(estimate.server, "the server"))


def _promised(privacy: Promise) -> str:
    """What the run will cost, and under which conditions."""
    ended = ", where its budget ends it" if privacy.is_cut else ""
    said = f"epsilon {privacy.epsilon:.4g} at delta {privacy.delta:g} after round {privacy.rounds}"
    parts = [said + ended]
    if privacy.epsilon_of_updates is not None:
        parts.append(f"{privacy.epsilon_of_updates:.4g} for a server that keeps every update")
    if privacy.sampled:
        parts.append("for who does not know the cohorts")
    if privacy.would_be_sampled:
        parts.append("with fl.reset_checkpoint=true the secret of the cohorts would count")
    return "; ".join(parts)


def _compared(estimate: Estimate) -> str:
    """Time and bytes beside those of data-parallel training, which sends none for one client."""
    fed, twin = estimate.federated, estimate.data_parallel
    time = beside(fed.seconds, twin.seconds, "data-parallel training")
    if not (fed.total_bytes and twin.total_bytes):
        return f"time of federated training: {time}"
    sent = beside(fed.total_bytes, twin.total_bytes, "it")
    return f"time of federated training: {time}; bytes: {sent}"


def _devices(run: Forecast) -> str:
    """Where the time of a device goes in a round, under the names that records have."""
    parts = [f"{name} {duration(took)}" for name, took in run.device_seconds.items() if took]
    return f"devices   {busy(run.utilization)}; a round: {', '.join(parts)}"


def _table(estimate: Estimate) -> Table:
    rows: dict[str, Callable[[Forecast], str]] = {
        "exchanges": lambda run: f"{run.rounds:,}",
        "compute between two": lambda run: duration(run.compute_seconds),
        "waiting for one": lambda run: duration(run.exchange_seconds),
        "utilization": lambda run: f"{run.utilization:.1%}",
        "bytes of one": lambda run: size(run.round_bytes),
        "bytes in all": lambda run: size(run.total_bytes),
        "time in all": lambda run: duration(run.seconds),
    }
    if estimate.price is not None:
        rows["cost"] = lambda run: f"{estimate.cost(run):,.0f}"
    table = new_table([""], ("federated", "data-parallel"))
    for name, show in rows.items():
        table.add_row(name, show(estimate.federated), show(estimate.data_parallel))
    return table


def _memory_table(memory: Memory, whose: str) -> Table:
    """A row for each part, a column for each stage of a round; its highest total is the peak."""
    stages = [stage.parts("cpu") for stage in memory.stages]
    table = new_table([f"memory of {whose}"], [stage.name for stage in memory.stages])
    totals = ["in all", *(size(stage.total("cpu")) for stage in memory.stages)]
    table.show_footer = True
    for column, total in zip(table.columns, totals, strict=True):
        column.footer = total
    for part in dict.fromkeys(name for parts in stages for name in parts):
        sizes = [parts.get(part, 0) for parts in stages]
        table.add_row(part, *(size(count) if count else "" for count in sizes))
    return table
