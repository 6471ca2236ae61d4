"""`photon generate`."""

from __future__ import annotations

from pathlib import Path

import click

from photon.cli.options import Number, RunPath, client_option


@click.command(name="generate")
@click.argument("checkpoint", type=RunPath())
@click.argument("prompt")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(1))
@click.option("--temperature", default=0.8, show_default=True, type=Number(0))
@click.option("--seed", default=0, show_default=True)
@client_option
def command(
    checkpoint: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    client: int | None,
) -> None:
    """Continue PROMPT with the model of CHECKPOINT: a run folder or one of its checkpoints.

    \b
    photon generate runs/quickstart "def read("
    photon generate runs/quickstart/checkpoints/round_000048.json "import " --temperature 0
    """
    from photon.data.tokenization import require_text
    from photon.hub.inference import continue_text, load_language_model

    require_text(prompt, "PROMPT")
    model = load_language_model(checkpoint, client)
    click.echo(prompt, nl=False)
    for piece in continue_text(
        model, prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    ):
        click.echo(piece, nl=False)
    click.echo()
