"""Entry point: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import time
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

import photon
import photon.errors
from photon.cli.options import is_first_process

COMMANDS = {
    "train": ("photon.cli.train", "Train a model: federated, or centralised."),
    "server": ("photon.cli.server", "Run a federation over several machines."),
    "node": ("photon.cli.node", "Host clients of a federation on this machine."),
    "doctor": ("photon.cli.doctor", "Say what would go wrong with a run, before it does."),
    "keys": ("photon.cli.keys", "Make the keys that server and nodes know each other by."),
    "prepare": ("photon.cli.prepare", "Turn text into token rows for a federation's clients."),
    "data": ("photon.cli.data", "Check, move and convert prepared data."),
    "plan": ("photon.cli.plan", "Say what a federation takes before it is started."),
    "simulate": ("photon.cli.simulate", "Run a federation on virtual time and virtual links."),
    "runs": ("photon.cli.runs:runs", "List runs: how far they are, and whether they run."),
    "status": ("photon.cli.runs:status", "Say where a run is, which may run elsewhere."),
    "watch": ("photon.cli.runs:watch", "Follow a run until it ends."),
    "report": ("photon.cli.report", "Write an HTML page about a run, or comparing several."),
    "verify": ("photon.cli.verify", "Check that a run's history is as it was committed."),
    "stop": ("photon.cli.runs:stop", "Stop a run from another terminal, with everything saved."),
    "evaluate": ("photon.cli.evaluate", "Score models: losses, tasks, composite scores."),
    "generate": ("photon.cli.generate", "Continue a text with a trained model."),
    "model": ("photon.cli.model", "Show what a model costs before it is trained."),
    "export": ("photon.cli.hub:export", "Write a checkpoint as a Hugging Face folder."),
    "import": ("photon.cli.hub:import_", "Make a run folder of a Hugging Face folder."),
    "config": ("photon.cli.config", "Show the composed configuration, or explain a key."),
    "completion": ("photon.cli.completion", "Complete words in bash, zsh or fish."),
}
ELSEWHERE = {
    "compare": "report RUN OTHER",
    "eval": "evaluate RUN",
    "init": "keys init",
    "resume": "train --resume RUN",
    "run": "train",
    "sample": "generate RUN TEXT",
    "start": "train",
}
"""What other tools call a command -> how it is called here."""

FIRST_SECONDS = 10.0
"""By which processes of a machine meet the same error one after the other."""


class LazyGroup(click.Group):
    """Loads a command's module when it is called, so that help never waits for PyTorch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return getattr(import_module(module), name or "command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]):
        import difflib

        name = args[0]
        if name not in COMMANDS:
            near = ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, COMMANDS)), "")
            hint = f"; did you mean {near!r}?" if near else ""
            ctx.fail(f"no command {name!r}{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(photon.__version__, prog_name="photon")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Pre-train a language model across sites that never share their data.

    \b
    photon train                          eight clients on an embedded corpus
    photon train fl.n_rounds=4            any key can be set; `photon config` shows them
    photon train --resume runs/NAME       go on with a run that was stopped
    photon train --centralized            the same trainer without a federation

    Exit codes: 0 success, 1 internal error, 2 something you can mend, 3 training diverged,
    4 a round failed, 130 and 143 stopped by a signal with everything saved.
    """


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line, and give its exit code."""
    warnings.simplefilter("always", photon.errors.PhotonWarning)
    warnings.showwarning = _show_warning
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return cli.main(arguments, prog_name="photon", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _wait_for_the_first()
        _say(_usage(error))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        return 130
    except BrokenPipeError:
        return 141
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _usage(error: click.ClickException) -> str:
    """What was wrong with a command line, in one line, and where to read how it is written."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if key := _dashed_key(error):
        message = f"{message.partition('. ')[0]}; a key is set without dashes: {key}=VALUE"
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message}; see `{context.command_path} --help`" if context else message


def _dashed_key(error: click.ClickException) -> str | None:
    """The key of `--KEY=VALUE`, as other programs have it, where a command takes keys."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return None
    from photon.config.compose import GROUPS, known_keys

    key = error.option_name.lstrip("-")
    takes_keys = "KEY=VALUE" in error.ctx.get_usage()
    return key if takes_keys and key in {*known_keys(), *GROUPS} else None


def _explain(error: Exception) -> int:
    message, code = _message(error)
    if is_first_process() or isinstance(error, photon.errors.Interrupted):  # which all agree on
        _say(message)
    else:  # it may be of this process alone, as where it is one more than there are GPUs
        _wait_for_the_first()
        _write(f"process {os.environ['RANK']}: {message}")
    return code


def _wait_for_the_first() -> None:
    """Let the first process of this machine say what all of them have met: as it ends, `torchrun`
    ends this one, and would end that one if this were earlier. Who is still there met it alone.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(FIRST_SECONDS)


def _message(error: Exception) -> tuple[str, int]:
    """What is said of an error, and its exit code."""
    if isinstance(error, photon.PhotonError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        where = error.filename or "disk"
        return f"{where}: {error.strerror}; free some space and run it again", 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}", 2
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Photon's own warnings as one line; those of other packages as Python prints them."""
    if issubclass(category, photon.errors.PhotonWarning):
        kind = "note" if issubclass(category, photon.errors.PhotonNote) else "warning"
        _say(f"{kind}: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def _say(message: str) -> None:
    """Once for all processes of a `torchrun` job."""
    if is_first_process():
        _write(message)


def _write(message: str) -> None:
    with suppress(BrokenPipeError):  # nobody reads it; whatever runs goes on
        click.echo(f"photon: {message}", err=True)
