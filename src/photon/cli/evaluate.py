"""`photon evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import (
    PATH,
    client_option,
    is_first_process,
    is_override,
    json_option,
    quiet_option,
)
from photon.errors import DataError, PhotonNote, warn
from photon.run.listing import run_named
from photon.scoring.text_files import read_text_file

if TYPE_CHECKING:
    from photon.scoring.evaluate import Evaluation


@click.command(name="evaluate")
@click.argument("arguments", nargs=-1, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option(
    "--text", "texts", multiple=True, type=PATH, help="A text file to score too; repeatable."
)
@click.option("--per-client", is_flag=True, help="Losses on each client's own held-out part, too.")
@client_option
@click.option(
    "--samples",
    is_flag=True,
    help="Write what the model did with every row, to samples.jsonl beside results.json.",
)
@click.option("--fresh", is_flag=True, help="Score again what was scored before.")
@click.option("--harness", type=click.Choice(["lm-eval"]), help="Score tasks of lm-eval instead.")
@click.option("--tasks", metavar="A,B,...", help="The tasks of --harness.")
@click.option("--tasks-folder", type=PATH, help="Task files for --harness; default: its own.")
@click.option("--num-fewshot", type=click.IntRange(0), help="Examples in a prompt of --harness.")
@json_option
@quiet_option
def command(
    arguments: tuple[str, ...],
    harness: str | None,
    tasks: str | None,
    tasks_folder: Path | None,
    num_fewshot: int | None,
    as_json: bool,
    quiet: bool,
    **wanted: Any,
) -> None:
    """Score models: losses, tasks, and the Gauntlet's composites.

    MODEL is a run folder (its newest checkpoint), a checkpoint, or a Hugging Face folder. Several
    are shown side by side. An evaluation that was interrupted goes on when it is called again.

    \b
    photon evaluate runs/quickstart
    photon evaluate runs/a runs/b icl_tasks_config=light
    photon evaluate gpt2-folder icl_tasks_config=tasks_v0.3 icl_tasks_config.root_dir=dataset_cache
    photon evaluate runs/a icl_tasks_config=mine.yaml eval_gauntlet_config=my-gauntlet.yaml
    photon evaluate runs/a --text book.txt icl_tasks_config=empty
    photon evaluate runs/a --harness lm-eval --tasks arc_easy,piqa
    """
    models = [run_named(Path(argument)) for argument in arguments if not is_override(argument)]
    overrides = [argument for argument in arguments if is_override(argument)]
    if not models:
        raise click.UsageError("name a run folder, a checkpoint or a Hugging Face folder")
    _require_readable(wanted["texts"])
    if harness is not None:
        if not tasks:
            raise click.UsageError("--harness lm-eval needs --tasks A,B,...")
        ours = {"text": "texts", "per-client": "per_client", "fresh": "fresh"}
        for name, field in ours.items():
            if wanted[field]:
                raise click.UsageError(f"--{name}: is not for --harness; leave one of them out")
        how = {"folder": tasks_folder, "num_fewshot": num_fewshot}
        how |= {key: wanted[key] for key in ("samples", "client")}
        _by_harness(models, tasks.split(","), overrides, as_json, quiet, **how)
        return
    given = {"tasks": tasks, "tasks-folder": tasks_folder, "num-fewshot": num_fewshot}
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(
                f"--{name} needs --harness lm-eval; other tasks are chosen by icl_tasks_config"
            )
    _by_our_rules(models, overrides, as_json, quiet, **wanted)


def _require_readable(texts: Sequence[Path]) -> None:
    """Before a model is loaded and scored: all of that would be told as failed."""
    for path in texts:
        try:
            read_text_file(path)
        except DataError as error:
            raise DataError(f"--text {error}") from None


def _by_harness(
    models: list[Path],
    tasks: list[str],
    overrides: list[str],
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> None:
    """Score with lm-eval; `how` are keywords of `evaluate_by_harness`."""
    from dataclasses import asdict

    from photon.report.console import Console
    from photon.report.evaluation_tables import print_harness
    from photon.scoring.harness import evaluate_by_harness

    found = [evaluate_by_harness(model, tasks, overrides, **how) for model in models]
    if as_json:
        _print_json([asdict(one) for one in found])
    else:
        print_harness(found, Console(quiet))


def _by_our_rules(
    models: list[Path], overrides: list[str], as_json: bool, quiet: bool, **wanted: Any
) -> None:
    """Score with Photon's own evaluation; `wanted` are fields of `Wanted`."""
    from photon.report.console import Console
    from photon.report.evaluation_tables import print_tables
    from photon.report.progress import evaluation_progress
    from photon.scoring import evaluate

    first = is_first_process()
    console = Console(quiet or not first)
    what = evaluate.Wanted(**wanted)
    with evaluation_progress(console) as shown:
        found = evaluate.evaluate(models, overrides, wanted=what, say=_note, progress=shown)
    if not first:
        return
    if as_json:
        _print_json([evaluate.as_json(one) for one in found])
    else:
        print_tables(found, console)
        for plot in _plots(models, found):
            console.print(f"plot      {plot}")
    if failed := sum(len(one.failures) for one in found):
        total = failed + sum(len(one.tasks) + len(one.losses) for one in found)
        raise DataError(
            f"{failed} of {total} scores could not be had: see failures in "
            f"{', '.join(f'{one.folder}/results.json' for one in found if one.failures)}"
        )


def _print_json(results: list[dict[str, Any]]) -> None:
    """One object for one model, else a list."""
    plain = results if len(results) > 1 else results[0]
    click.echo(json.dumps(plain, indent=1, default=str))


def _note(line: str) -> None:
    warn(line, PhotonNote)


def _plots(models: list[Path], found: Sequence[Evaluation]) -> list[Path]:
    """A radar of the categories, and the history of each run that has one."""
    from photon.report.evaluation_plots import draw_history, draw_radar

    drawn = [draw_radar(found, Path(found[0].folder) / "radar.png")]
    runs = {path if path.is_dir() else path.parent.parent for path in models}
    drawn += [draw_history(run) for run in sorted(runs) if (run / "run.json").exists()]
    return [path for path in drawn if path is not None]
