"""`photon completion`."""

from __future__ import annotations

import click

_BASH = """
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}  # key=value is one word
_photon_words() {
    _photon_completion "$@"
    [[ ${COMPREPLY[0]} != *= ]] || compopt -o nospace 2>/dev/null
}
complete -o nosort -F _photon_words photon
"""


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes commands, options, keys and their values in a shell.

    \b
    eval "$(photon completion bash)"             in ~/.bashrc
    eval "$(photon completion zsh)"              in ~/.zshrc
    photon completion fish > ~/.config/fish/completions/photon.fish
    """
    from click.shell_completion import get_completion_class

    from photon.cli.main import cli

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "photon", "_PHOTON_COMPLETE").source())
    if shell == "bash":
        click.echo(_BASH)
