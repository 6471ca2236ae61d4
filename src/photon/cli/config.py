"""`photon config`."""

from __future__ import annotations

import click


@click.command(name="config")
@click.option("--keys", is_flag=True, help="List every key with its type and meaning instead.")
@click.option("--reference", is_flag=True, help="Print the reference of all keys as Markdown.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(keys: bool, reference: bool, overrides: tuple[str, ...]) -> None:
    """Show the configuration that these overrides compose, as YAML.

    \b
    photon config recipe=quickstart fl.n_rounds=4
    photon config --keys
    """
    if reference:
        from photon.config.reference import reference as page

        click.echo(page(), nl=False)
        return
    if keys:
        click.echo("\n".join(_describe()))
        return
    from omegaconf import OmegaConf

    from photon.config import load_config

    config = load_config(overrides)
    click.echo(OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))), nl=False)


def _describe() -> list[str]:
    from photon.config.compose import described_keys

    return [f"{key:<56}{text}" for key, text in described_keys()]
