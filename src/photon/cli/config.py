"""`photon config`."""

from __future__ import annotations

import click

from photon.cli.options import complete_key, is_override


@click.command(name="config")
@click.option("--keys", is_flag=True, help="List every key with its meaning and default instead.")
@click.option("--reference", is_flag=True, help="Print the reference of all keys as Markdown.")
@click.argument("words", nargs=-1, metavar="[KEY] [KEY=VALUE]...", shell_complete=complete_key)
def command(keys: bool, reference: bool, words: tuple[str, ...]) -> None:
    """Show the configuration that these overrides compose, and what set each value.

    A value without a comment is the default. A key without a value is explained instead.

    \b
    photon config recipe=quickstart fl.n_rounds=4
    photon config fl.quorum                    its meaning, type, default
    photon config fl recipe=quickstart         a whole section, with its values in the recipe
    photon config --keys
    """
    from photon.config.explain.origin import annotated, explained
    from photon.config.explain.reference import all_keys
    from photon.config.explain.reference import reference as page

    overrides = [word for word in words if is_override(word)]
    asked = [word for word in words if not is_override(word)]
    if reference:
        click.echo(page(), nl=False)
    elif keys:
        for one in all_keys():
            click.echo(f"{one.key:<56} {one.meaning} [default: {one.default}]")
    elif asked:
        click.echo("\n".join(explained(key, overrides) for key in asked))
    else:
        click.echo(annotated(overrides), nl=False)
