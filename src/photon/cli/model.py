"""`photon model`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import json_option, overrides_argument
from photon.report.console import format_bytes as size

if TYPE_CHECKING:
    from photon.config.federation import Federation
    from photon.config.llm import Inner


@click.command(name="model")
@json_option
@overrides_argument
def command(as_json: bool, overrides: tuple[str, ...]) -> None:
    """Show what a model costs: parameters, arithmetic, memory, and the bytes of an update.

    \b
    photon model llm_config=mpt-125m
    photon model llm_config=llama-1b llm_config.device_train_microbatch_size=4 --json
    """
    from photon.config import load_config
    from photon.run.preparation import architecture_of

    config = load_config(overrides)
    config = config.with_model(architecture_of(config.inner.model, config.federation.vocabulary))
    facts = describe(config.inner, config.averaging())
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(_lines(facts)))


def describe(inner: Inner, federation: Federation) -> dict[str, Any]:
    """Costs of the configured model: counts, FLOPs, bytes."""
    from dataclasses import asdict

    from photon.model.flops import model_cost
    from photon.training.memory import client_memory
    from photon.training.outline import traffic_of

    cost = model_cost(inner)
    rows = inner.microbatch_rows
    counts = {1, min(8, inner.batch_rows)} if rows == "auto" else {rows}
    memory = {
        str(rows): client_memory(inner, federation, rows).highest("device")
        for rows in sorted(counts)
    }
    return {
        "name": inner.name,
        "family": inner.model.name,
        "max_seq_len": inner.row_length,
        "precision": inner.precision,
        "optimizer": inner.optimizer.name,
        "parameters": {"total": cost.parameters, "embeddings": cost.embeddings},
        "flops_per_token": cost.flops_per_token,
        "training_bytes": {
            rows: {**stage.parts("device"), "total": stage.total("device")}
            for rows, stage in memory.items()
        },
        "update_bytes": asdict(traffic_of(inner, federation)),
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    total, embeddings = facts["parameters"].values()
    update = facts["update_bytes"]
    lines = [
        f"model        {facts['name']} ({facts['family']}), rows of {facts['max_seq_len']} tokens",
        f"parameters   {total:,}, of these {embeddings:,} in embeddings",
        f"arithmetic   {facts['flops_per_token'] / 1e9:.3g} GFLOPs per token trained",
    ]
    for rows, memory in facts["training_bytes"].items():
        shown = ", ".join(f"{name} {size(memory[name])}" for name in memory if name != "total")
        plural = "row" if rows == "1" else "rows"
        lines.append(
            f"memory       {size(memory['total'])} on one device with {rows} {plural} a pass "
            f"({facts['precision']}, {facts['optimizer']}): {shown}"
        )
    lines.append(
        f"update       {size(update['up'])} from each client, {size(update['down'])} back, a round"
    )
    return lines
