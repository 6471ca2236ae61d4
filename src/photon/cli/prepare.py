"""`photon prepare`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="prepare")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to make; default: data/ with a name that the settings give.",
)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(out: Path | None, overrides: tuple[str, ...]) -> None:
    """Prepare the embedded corpus: the source of the running Python's standard library.

    \b
    photon prepare
    photon prepare --out data/by-package dataset=embedded-by-source fl.n_total_clients=4
    photon train dataset.train.root_local=data/by-package fl.n_total_clients=4
    """
    from photon.config import load_config
    from photon.data.prepare import prepare_embedded
    from photon.runtime.experiment import prepare

    config = load_config(overrides)
    if out is not None:
        clients, length = config.fl.n_total_clients, config.llm_config.max_seq_len
        prepare_embedded(out, config.dataset.embedded, clients, length, click.echo)
        click.echo(f"folder      {out}")
    else:
        config, _ = prepare(config, click.echo)
        click.echo(f"folder      {config.dataset.train.root_local}")
