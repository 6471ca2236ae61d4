"""`photon evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(name="evaluate")
@click.argument("arguments", nargs=-1, required=True, metavar="MODEL... [KEY=VALUE]...")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A text file whose loss is wanted; may be given several times.",
)
@click.option("--per-client", is_flag=True, help="Losses on each client's own held-out part, too.")
@click.option("--samples", is_flag=True, help="Write what the model did with every row.")
@click.option("--fresh", is_flag=True, help="Score again what was scored before.")
@click.option("--json", "json_only", is_flag=True, help="Print results as JSON and nothing else.")
@click.option(
    "--progress/--no-progress", default=None, help="How far it is; default: on a terminal."
)
def command(
    arguments: tuple[str, ...],
    texts: tuple[Path, ...],
    per_client: bool,
    samples: bool,
    fresh: bool,
    json_only: bool,
    progress: bool | None,
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
    """
    from photon.cli.evaluation_progress import evaluation_progress
    from photon.cli.evaluation_tables import print_tables
    from photon.cli.processes import is_first_process
    from photon.errors import DataError
    from photon.report import Console
    from photon.runtime.evaluate import Wanted, as_json, evaluate

    models = [Path(argument) for argument in arguments if "=" not in argument]
    overrides = [argument for argument in arguments if "=" in argument]
    if not models:
        raise click.UsageError("name a run folder, a checkpoint or a Hugging Face folder")
    first = is_first_process()
    console = Console(progress=progress, quiet=json_only or not first)
    wanted = Wanted(texts, per_client, samples, fresh)
    with evaluation_progress(console) as shown:
        found = evaluate(models, overrides, wanted=wanted, say=console.rich.print, progress=shown)
    if not first:
        return
    if json_only:
        plain = [as_json(one) for one in found]
        click.echo(json.dumps(plain if len(plain) > 1 else plain[0], indent=1))
    else:
        print_tables(found, console)
    failed = sum(len(one.failures) for one in found)
    if failed:
        total = failed + sum(len(one.tasks) + len(one.losses) for one in found)
        raise DataError(
            f"{failed} of {total} scores could not be had: see failures in "
            f"{', '.join(f'{one.folder}/results.json' for one in found if one.failures)}"
        )
