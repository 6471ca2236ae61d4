"""Options that are numbers: finite, and within bounds."""

from __future__ import annotations

import click
import pytest

from photon.cli.main import cli, run


def options(command: click.Command, words: tuple[str, ...] = ()):
    """The words of every option that takes a number with a fraction, and its type."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options(below, (*words, name))
    for param in command.params:
        if isinstance(param.type, click.types.FloatParamType):
            yield " ".join((*words, param.opts[0])), param.type


FRACTIONS = dict(options(cli))


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("option", FRACTIONS)
def test_what_is_no_finite_number_is_refused(option, text):
    with pytest.raises(click.BadParameter):
        FRACTIONS[option].convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("generate runs/r x --temperature nan", "'nan': must be a finite number"),
        ("plan --mfu nan", "'nan': must be a finite number"),
        ("data push data s3://b/p --retry -1", "-1 is not in the range"),
        ("data push data s3://b/p --timeout 0", "0.0 is not in the range"),
        ("data push data s3://b/p --timeout 1e300", "1e+300 is not in the range"),
    ],
)
def test_that_is_said_in_a_line(capsys, words, message):
    assert run(words.split()) == 2
    assert message in capsys.readouterr().err
