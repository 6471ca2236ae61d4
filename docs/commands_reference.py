"""The reference of all commands as Markdown, made from what click knows of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from photon.cli.main import cli


def commands_reference() -> str:
    """A section for each command: usage, meaning, examples, options."""
    return "\n".join(_sections(cli, click.Context(cli, info_name="photon")))


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        own = click.Context(command, parent=context, info_name=name)
        yield _section(command, own)
        if isinstance(command, click.Group):
            yield from _sections(command, own)


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    return (
        f"\n## {context.command_path}\n\n```text\n{context.command_path} {usage}\n```\n"
        f"{''.join(_paragraphs(command.help or ''))}{_options(command, context)}"
    )


def _paragraphs(text: str) -> Iterator[str]:
    """A help text; paragraphs that click leaves as they are (after a \\b) are shown as code."""
    for part in inspect.cleandoc(text).split("\n\n"):
        lines = part.strip("\n")
        shown = f"```text\n{lines[2:]}\n```" if lines.startswith("\b\n") else lines
        yield f"\n{shown}\n"


def _options(command: click.Command, context: click.Context) -> str:
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    records = [option.get_help_record(context) for option in options]
    rows = "".join(f"| `{name}` | {_cell(text)} |\n" for name, text in filter(None, records))
    return f"\n| option | meaning |\n|---|---|\n{rows}" if rows else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
