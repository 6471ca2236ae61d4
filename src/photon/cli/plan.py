"""`photon plan`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import Quantity, json_option, overrides_argument
from photon.report.console import duration

if TYPE_CHECKING:
    from photon.core.walltime import Forecast
    from photon.experiment.plan import Plan

RATE, SIZE = Quantity("1Gbit"), Quantity("80GB")


@click.command(name="plan")
@click.option("--bandwidth", type=RATE, default="1Gbit", show_default=True, help="Of each site.")
@click.option("--upload", type=RATE, help="Of each site, where it differs from --bandwidth.")
@click.option("--server-bandwidth", type=RATE, help="Of the server; default: as --bandwidth.")
@click.option("--latency", default=0.05, show_default=True, help="Seconds, one way.")
@click.option(
    "--topology",
    type=click.Choice(["server", "all_reduce", "ring"]),
    default="server",
    show_default=True,
    help="How updates are exchanged; Photon's engines have a server.",
)
@click.option("--sites", type=click.IntRange(1), help="Sites that send one update; default: all.")
@click.option("--site-bandwidth", type=RATE, help="Between the machines of one site.")
@click.option("--floor", default=6.0, show_default=True, help="Seconds of a round beside these.")
@click.option("--device", default="H100", show_default=True, help="What trains: H100, A100, L4...")
@click.option("--mfu", type=click.FloatRange(0, 1, True), default=0.4, show_default=True,
              help="Share of the device's peak.")  # fmt: skip
@click.option("--tokens-per-second", type=float, help="Of one client, if you have measured it.")
@click.option("--price", type=float, help="Of an hour of one device.")
@click.option("--overlap", type=click.FloatRange(0, 1), default=0.0, help="Hidden share, 0 to 1.")
@click.option("--target", type=click.FloatRange(0, 1, True, True), default=0.9, show_default=True,
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
    from photon.experiment.plan import described, make_plan
    from photon.node.fit import fits

    memory = given.pop("device_memory")
    assumed = _assumed(given)
    plan = make_plan(load_config(overrides), _setting(given))
    needed = {"utilization": target, "local_steps": plan.local_steps_for(target)}
    room = None if memory is None else fits(plan.memory["device"], memory)
    if as_json:
        facts = {**described(plan), "assumed": assumed, "target": needed, "fits_device": room}
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"assumes {assumed}")
    _print(plan, needed, room, memory)


def _assumed(given: dict[str, Any]) -> str:
    """What stands for the machines, since a plan knows nothing of this one."""
    from photon.report.console import format_bytes

    speed = f"{given['device']}s at {given['mfu']:.0%} of their peak"
    if given["tokens_per_second"] is not None:
        speed = f"clients that train {given['tokens_per_second']:,.0f} tokens a second"
    return (
        f"{speed}, links of {format_bytes(given['bandwidth'])} a second; not this machine: "
        "--tokens-per-second, --device, --bandwidth say otherwise"
    )


def _setting(given: dict[str, Any]) -> Any:
    from photon.core.walltime import Link
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
        link=Link(up=up or down, down=down, latency=latency),
        server=Link(up=server, down=server),
        inside=None if site is None else Link(up=site, down=site),
        **given,
    )


def _print(plan: Plan, needed: dict[str, Any], room: bool | None, memory: float | None) -> None:
    from photon.node.fit import HEADROOM
    from photon.report.console import Console, format_bytes
    from photon.report.memory_table import memory_table

    console, each = Console(), plan.traffic
    first = "" if each.first_down == each.down else f" ({format_bytes(each.first_down)} at first)"
    console.print(
        f"{plan.parameters:,} parameters, {plan.tokens:,} tokens on {plan.devices} devices; "
        f"a local step takes {duration(plan.step_seconds)}\n"
        f"update {format_bytes(each.up)} up, {format_bytes(each.down)} down{first}, of each "
        "client and round"
    )
    console.print(_table(plan))
    lines = [
        _compared(plan),
        f"{needed['utilization']:.0%} utilization needs {needed['local_steps']} local steps",
        f"memory    device {format_bytes(plan.memory['device'])} and "
        f"{format_bytes(plan.memory['host'])} of its host, or {format_bytes(plan.memory['cpu'])} "
        f"of a host without one; server {format_bytes(plan.memory['server'])}",
        f"disk      server {format_bytes(plan.disk['server'])}, "
        f"each client {format_bytes(plan.disk['client'])}",
    ]
    if room is False and memory is not None:
        lines.append(f"does not fit: a device has {format_bytes(memory)}, of which {HEADROOM:.0%} "
                     "may be filled; shard the model (photon.devices_per_client) or take smaller "
                     "microbatches")  # fmt: skip
    for line in lines:
        console.print(line)
    console.print(memory_table(plan.client, "a client on a CPU"))
    console.print(memory_table(plan.server, "the server"))


def _compared(plan: Plan) -> str:
    """Time and bytes beside those of data-parallel training, which sends none for one client."""
    from photon.report.console import beside

    fed, twin = plan.federated, plan.data_parallel
    time = beside(fed.seconds, twin.seconds, "data-parallel training")
    if not (fed.total_bytes and twin.total_bytes):
        return f"time of federated training: {time}"
    sent = beside(fed.total_bytes, twin.total_bytes, "it")
    return f"time of federated training: {time}; bytes: {sent}"


def _table(plan: Plan) -> Any:
    from rich import box
    from rich.table import Table

    from photon.report.console import format_bytes

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("federated", "data-parallel"):
        table.add_column(name, justify="right", no_wrap=True)

    def row(name: str, show: Any) -> None:
        table.add_row(name, show(plan.federated), show(plan.data_parallel))

    row("exchanges", lambda f: f"{f.rounds:,}")
    row("compute between two", lambda f: duration(f.compute_seconds))
    row("waiting for one", lambda f: duration(f.exchange_seconds))
    row("utilization", lambda f: f"{f.utilization:.1%}")
    row("bytes of one", lambda f: format_bytes(f.round_bytes))
    row("bytes in all", lambda f: format_bytes(f.total_bytes))
    row("time in all", lambda f: duration(f.seconds))
    if plan.price is not None:
        row("cost", lambda f: _cost(plan, f))
    return table


def _cost(plan: Plan, forecast: Forecast) -> str:
    return f"{plan.cost(forecast):,.0f}"
