"""`photon.train` and `photon.resume`: what the command does, for Python."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from reprlib import repr as short

from photon.config import Config
from photon.config.compose import as_overrides
from photon.config.overrides import Overrides
from photon.errors import ConfigError
from photon.experiment import experiment
from photon.report.console import Console, in_notebook
from photon.run.listing import run_named
from photon.run.preparation import config_of_run
from photon.run.results import TrainResult


def train(
    config: Config | Overrides = (), *, centralized: bool = False, progress: bool | None = None
) -> TrainResult:
    """Train a model: a federated run, or a centralised one.

    Args:
        config: a configuration, or overrides of the default one: `"recipe=smoke"`, a list of such
            strings, or a dict, `{"fl.n_rounds": 4, "llm_config": {"local_steps": 8}}`; vocabulary,
            row length and number of clients that these do not give are those of prepared data.
        centralized: no federation: one trainer on the clients' joined batches
            (`centralized.stream_id` picks one client's data instead). Under `torchrun`, one
            process per device.
        progress: print a line for each round; None: in a notebook.

    Returns:
        The result; the same is in `summary.json` of the run folder, its history in
        `metrics.jsonl`.

    Raises:
        PhotonError: its subclasses, each with one line that says what to do.
    """
    console = _console(progress)
    if isinstance(config, Config):
        given = config
    else:
        kind = "centralized" if centralized else "federated"
        given = config_of_run(as_overrides(config), kind, console.say)
    return experiment.train(
        given, centralized=centralized, say=console.say, console=console.tracker
    )


def resume(
    run: Path | str, overrides: Overrides = (), *, progress: bool | None = None
) -> TrainResult:
    """Go on with a run from its last commit, bit for bit.

    Args:
        run: the run folder, or its name in `runs`.
        overrides: keys that may change, as for `train`: the run's length may be raised, or
            lowered to what is done, which ends it; evaluation, system and comparison keys may be
            set.
        progress: print a line for each round; None: in a notebook.

    Raises:
        MismatchedCheckpoint: an override, or the data, would change the mathematics.
        RunFolderError: no run there, an imported model, or another process is at it.
    """
    if not isinstance(run, str | PathLike):
        raise ConfigError(f"{short(run)} is no run; give its folder, or its name in runs")
    console = _console(progress)
    return experiment.resume(
        run_named(Path(run)), as_overrides(overrides), say=console.say, console=console.tracker
    )


def _console(progress: bool | None) -> Console:
    """Plain lines; in a notebook among its output, which standard error would paint red."""
    notebook = in_notebook()
    return Console(quiet=not (notebook if progress is None else progress), watching=notebook)
