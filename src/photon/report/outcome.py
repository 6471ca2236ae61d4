"""What is told of a run that has ended: the final table, a loss plot, a sample."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from photon.report.comparison import bytes_line, epsilon_line, loss_line
from photon.report.console import Console, new_table, perplexity
from photon.report.figures import draw_lines
from photon.run.trackers import read_lines

if TYPE_CHECKING:  # they import torch, for which `photon status` should not wait
    from tokenizers import Tokenizer

    from photon.run.results import TrainResult
    from photon.run.run_data import RunData

PROMPT_TOKENS = 8
"""Most tokens of the validation text that a sample begins with."""


def _final_table(result: TrainResult) -> Table:
    """Federated, centralised, alone and unigram side by side."""
    columns = ("loss", "ppl", "bits/byte", "tokens", "steps", "lr", "seconds")
    table = new_table([""], columns, f"{result.run}: validation on the common set")
    rows = {
        "federated": result.federated,
        "centralised": result.centralized,
        "one client alone": result.alone,
        "unigram model": result.unigram,
    }
    for name, score in rows.items():
        if score is None:
            continue
        table.add_row(
            name,
            f"{score.val_loss:.3f}",
            perplexity(score.perplexity),
            f"{score.bits_per_byte:.3f}",
            f"{score.tokens:,}" if score.tokens else "-",
            str(score.steps or "-"),
            f"{score.learning_rate:g}" if score.learning_rate else "-",
            f"{score.seconds:.0f}" if score.seconds else "-",
        )
    return table


def ratio_lines(result: TrainResult) -> list[str]:
    """The comparison in words: loss ratios, and bytes against data-parallel training."""
    fed, central, alone = result.federated, result.centralized, result.alone
    if fed is None:
        return []
    lines = [
        loss_line(fed.val_loss, central and central.val_loss, alone and alone.val_loss),
        bytes_line(result.bytes_up, result.bytes_down, result.bytes_ddp),
    ]
    return [line for line in lines if line]


def report(result: TrainResult, console: Console, as_json: bool) -> None:
    """Print the summary, or else the table, a sample and where everything lies with a loss plot."""
    if as_json:
        from photon.run.results import summary_of

        click.echo(json.dumps(summary_of(result), indent=1))
        return
    folder = result.folder
    is_trained = any((folder / "checkpoints").glob("*.json"))
    plot = _draw_losses(folder) if is_trained else None  # before the reader of a pipe can go away
    console.print_table(_final_table(result))
    for line in [*ratio_lines(result), _privacy_line(folder)]:
        if line:
            console.print(line)
    arguments = _show_sample(folder, console) if is_trained else ""
    console.print(f"summary   {folder / 'summary.json'}")
    console.print(f"metrics   {folder / 'metrics.jsonl'}")
    if plot is not None:
        console.print(f"plot      {plot}")
    if is_trained:
        console.print(f"try       {how_to_try(folder, arguments)}")


def how_to_try(folder: Path, words: str) -> str:
    """The command that shows what a run's model writes.

    Args:
        words: quoted already.
    """
    return f"photon generate {shlex.quote(str(folder))} {words}"


def _privacy_line(folder: Path) -> str | None:
    private = [one for one in read_lines(folder / "metrics.jsonl") if "epsilon" in one]
    keys = ("epsilon", "delta", "epsilon_of_updates")
    return epsilon_line(*map(private[-1].get, keys)) if private else None


def _show_sample(folder: Path, console: Console) -> str:
    """Print a text of the model, or of a client's; gives the words that `photon generate` takes."""
    from photon.hub.inference import continue_text, load_language_model
    from photon.run.run_data import RunData
    from photon.run.saved_model import load_saved_model

    saved = load_saved_model(folder)
    data = RunData.of(*saved.config.reading)
    prompt, client = _prompt(data, saved.encoder.tokenizer), saved.somebody
    if saved.own is not None and client is None:
        return f"{shlex.quote(prompt)} --client N"  # the clients' layers are on their nodes
    whose = "" if client is None else f" --client {client}"
    model = load_language_model(folder, client)
    text = prompt + "".join(continue_text(model, prompt, max_new_tokens=48))
    console.print(f"\nsample{whose}: {text!r}\n")
    return shlex.quote(prompt) + whose


def _prompt(data: RunData, tokenizer: Tokenizer) -> str:
    """The first words of the validation text, on one line; empty where it begins with none."""
    from photon.run.run_data import VALIDATION

    tokens = data.rows(VALIDATION).read([0])[0, :PROMPT_TOKENS].tolist()
    words = tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd").split()
    return " ".join(words[:-1] or words)  # the last one may be half a word


def _draw_losses(folder: Path) -> Path | None:
    """Validation loss against steps, of a run and its baselines, as `loss.png` in its folder."""
    lines = {}
    for path in [folder / "metrics.jsonl", *sorted(folder.glob("baselines/*/metrics.jsonl"))]:
        records = read_lines(path)
        if points := [(one["step"], one["val_loss"]) for one in records if "val_loss" in one]:
            lines[_curve_name(path, folder, records[0])] = points
    names = ("optimizer steps of the run", "validation loss (nats per token)")
    return draw_lines(lines, *names, folder / "loss.png")


def _curve_name(path: Path, folder: Path, record: Mapping[str, Any]) -> str:
    if path.parent != folder:
        return path.parent.name
    return "federated" if "round" in record else folder.name
