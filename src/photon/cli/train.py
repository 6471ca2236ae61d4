"""`photon train`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import (
    is_first_process,
    json_option,
    overrides_argument,
    quiet_option,
    resume_option,
)


@click.command(name="train")
@click.option("--centralized", is_flag=True, help="No federation: one trainer on all the data.")
@resume_option
@json_option
@quiet_option
@overrides_argument
def command(
    centralized: bool,
    resume_from: Path | None,
    as_json: bool,
    quiet: bool,
    overrides: tuple[str, ...],
) -> None:
    """Train a model: federated by default, centralised on request.

    \b
    photon train                                  the default federation on the embedded corpus
    photon train recipe=quickstart                with its baselines, for the final table
    photon train fl.strategy_name=fedavg llm_config.local_steps=32ba
    photon train --resume runs/quickstart fl.n_rounds=60   or so many as are done, to end it
    photon train --centralized centralized.stream_id=0     one client alone
    photon train > result.txt                     rounds on the terminal, the table in a file
    torchrun --nproc-per-node 8 -m photon train --centralized llm_config=mpt-125m
    """
    from photon.experiment.experiment import resume, train
    from photon.report.console import Console
    from photon.report.live_view import live_view
    from photon.report.outcome import report
    from photon.run.preparation import config_of_run

    if resume_from is not None and centralized:
        raise click.UsageError("--resume knows what kind of run it is; leave --centralized out")
    first = is_first_process()
    console = Console(quiet or not first)
    tell = {"say": console.say, "console": console.tracker}
    with live_view(console):
        if resume_from is not None:
            result = resume(resume_from, overrides, **tell)
        else:
            kind = "centralized" if centralized else "federated"
            config = config_of_run(overrides, kind, console.say)
            result = train(config, centralized=centralized, **tell)
    if first:
        report(result, console, as_json)
