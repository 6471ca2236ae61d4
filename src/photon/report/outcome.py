"""What is told of a run that has ended: the final table, a loss plot, a sample."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from photon.report.comparison import bytes_line, loss_line
from photon.report.console import Console
from photon.run.trackers import read_lines

if TYPE_CHECKING:  # they import torch, for which `photon status` should not wait
    from tokenizers import Tokenizer

    from photon.run.results import TrainResult
    from photon.run.rows import RunData

PROMPT_TOKENS = 8
"""A sample begins with so many tokens of the validation text, or a few less."""


def final_table(result: TrainResult) -> Table:
    """Federated, centralised, alone and unigram side by side."""
    table = Table(
        title=f"{result.run}: validation on the common set",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("", "loss", "ppl", "bits/byte", "tokens", "steps", "lr", "seconds"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
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
            f"{score.perplexity:.1f}",
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


def report(result: TrainResult, console: Console) -> None:
    """Print the table, a sample and where everything lies; draw the loss plot."""
    folder = result.folder
    is_trained = any((folder / "checkpoints").glob("*.json"))
    plot = draw_losses(folder) if is_trained else None  # before the reader of a pipe can go away
    console.print(final_table(result))
    for line in ratio_lines(result):
        console.print(line)
    told = _show_sample(folder, console) if is_trained else ""
    console.print(f"summary   {folder / 'summary.json'}")
    console.print(f"metrics   {folder / 'metrics.jsonl'}")
    if plot is None:
        return
    console.print(f"plot      {plot}")
    console.print(f"try       photon generate {folder} {told}")


def _show_sample(folder: Path, console: Console) -> str:
    """Print a text of the model, or of a client's; gives the words that `photon generate` takes."""
    from photon.run.rows import RunData
    from photon.run.saved_model import load_saved_model

    saved = load_saved_model(folder)
    prompt = sample_prompt(
        RunData.of(*saved.config.reading),
        saved.encoder.tokenizer,
    )
    client = saved.somebody
    if saved.own is not None and client is None:
        return f"{shlex.quote(prompt)} --client N"  # the clients' layers are on their nodes
    whose = "" if client is None else f" --client {client}"
    console.print(f"\nsample{whose}: {sample(folder, prompt, client)!r}\n")
    return shlex.quote(prompt) + whose


def sample_prompt(data: RunData, tokenizer: Tokenizer) -> str:
    """The first words of the validation text, on one line; empty where it begins with none."""
    from photon.run.rows import VALIDATION

    tokens = data.rows(VALIDATION).read([0])[0, :PROMPT_TOKENS].tolist()
    words = tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd").split()
    return " ".join(words[:-1] or words)  # the last one may be half a word


def sample(folder: Path, prompt: str, client: int | None = None) -> str:
    """A short text from the run's newest checkpoint."""
    from photon.hub.inference import continue_text, load_language_model

    model = load_language_model(folder, client)
    return prompt + "".join(continue_text(model, prompt, max_new_tokens=48))


def _curve_name(path: Path, folder: Path, record: Mapping[str, Any]) -> str:
    if path.parent != folder:
        return path.parent.name
    return "federated" if "round" in record else folder.name


def draw_losses(folder: Path) -> Path:
    """Draw validation loss against steps for a run and its baselines.

    Returns:
        Path of the PNG in the run folder.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120)
    for path in [folder / "metrics.jsonl", *sorted(folder.glob("baselines/*/metrics.jsonl"))]:
        lines = read_lines(path)
        points = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                marker="o",
                markersize=3,
                label=_curve_name(path, folder, lines[0]),
            )
    axes.set_xlabel("optimizer steps of the run")
    axes.set_ylabel("validation loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    target = folder / "loss.png"
    figure.savefig(target)
    plt.close(figure)
    return target
