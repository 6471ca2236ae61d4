"""What the user sees: a line per round, the final table, a loss plot, a sample."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console as RichConsole
from rich.table import Table

from photon.runtime.trackers import Tracker, read_lines

if TYPE_CHECKING:  # they import torch, for which `photon status` should not wait
    from photon.runtime.results import TrainResult
    from photon.runtime.run_folder import RunFolder

SAMPLE_PROMPT = "def "


class _Terminal(RichConsole):
    """A console whose reader may go away (`| head`): training goes on, unseen."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Console:
    """The terminal.

    Args:
        progress: print a line per round; None: only on a terminal.
        quiet: print nothing at all.

    Attributes:
        folder: of the run that is under way, or of its baseline.
    """

    def __init__(self, progress: bool | None = None, quiet: bool = False) -> None:
        self.rich = _Terminal(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = 100
        self.progress = self.rich.is_terminal if progress is None else progress
        self.folder: Path | None = None

    def say(self, line: str) -> None:
        if self.progress:
            self.rich.print(line, markup=False)

    def print(self, value: Any) -> None:
        self.rich.print(value)

    def tracker(self, folder: RunFolder, label: str) -> Tracker:
        """A tracker that prints records as they come."""
        self.folder = folder.path

        def track(record: Mapping[str, Any]) -> None:
            if self.progress:
                self.rich.print(progress_line(record, label), markup=False)

        return track


def progress_line(record: Mapping[str, Any], label: str) -> str:
    """One line for one round, or for one interval of a centralised run."""
    is_round = "round" in record
    what = (
        f"round {record['round']:>3}/{record['rounds']}"
        if is_round
        else f"{label} {record['step']:>5}/{record['steps']}"
    )
    if is_round and not record.get("accepted", True):
        return f"{what}  skipped: no quorum"
    is_start = "train_loss" not in record
    parts = [what, "at the start" if is_start else f"loss {record['train_loss']:.3f}"]
    if "val_loss" in record:
        parts.append(
            f"val {record['val_loss']:.3f} ppl {record['val_perplexity']:.1f} "
            f"bpb {record['val_bits_per_byte']:.3f}"
        )
    if is_start:
        return "  ".join(parts)
    parts.append(f"{record['tokens_per_second']:,.0f} tok/s")
    if is_round:
        sent = record["bytes_up"] + record["bytes_down"]
        parts.append(f"{format_bytes(sent)}, {record['bytes_ddp'] / sent:.1f}x less than DDP")
    parts.append(f"{record['seconds']:.1f} s")
    parts += [f"client {c} refused: {why}" for c, why in record.get("refused", {}).items()]
    parts += [f"client {c} missing: {why}" for c, why in record.get("missing", {}).items()]
    return "  ".join(parts)


def format_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


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
    lines = []
    fed = result.federated
    if fed and result.centralized and result.alone:
        lines.append(
            f"federated loss is {fed.val_loss / result.centralized.val_loss:.3f} x centralised and "
            f"{fed.val_loss / result.alone.val_loss:.3f} x one client alone"
        )
    if fed and (sent := result.bytes_up + result.bytes_down):
        lines.append(
            f"sent {format_bytes(result.bytes_up)} up and {format_bytes(result.bytes_down)} down; "
            f"data-parallel training would have sent {format_bytes(result.bytes_ddp)} "
            f"({result.bytes_ddp / sent:.1f} x as much)"
        )
    return lines


def report(result: TrainResult, console: Console) -> None:
    """Print the table, a sample and where everything lies; draw the loss plot."""
    folder = Path(result.folder)
    is_trained = any((folder / "checkpoints").glob("*.json"))
    plot = draw_losses(folder) if is_trained else None  # before the reader of a pipe can go away
    console.print(final_table(result))
    for line in ratio_lines(result):
        console.print(line)
    whose = _show_sample(folder, console) if is_trained else ""
    console.rich.print(f"summary   {folder / 'summary.json'}", markup=False)
    console.rich.print(f"metrics   {folder / 'metrics.jsonl'}", markup=False)
    if plot is None:
        return
    console.rich.print(f"plot      {plot}", markup=False)
    console.rich.print(f"try       photon generate {folder} {SAMPLE_PROMPT!r}{whose}", markup=False)


def _show_sample(folder: Path, console: Console) -> str:
    """Print a text of the model, or of a client's; gives the option that names the client."""
    from photon.runtime.saved_model import load_saved_model

    saved = load_saved_model(folder)
    client = saved.somebody
    if saved.own is not None and client is None:
        return " --client N"  # the clients' layers are on their nodes
    whose = "" if client is None else f" --client {client}"
    console.rich.print(f"\nsample{whose}: {sample(folder, client)!r}\n", markup=False)
    return whose


def sample(folder: Path, client: int | None = None) -> str:
    """A short text from the run's newest checkpoint."""
    from photon.runtime.inference import continue_text, load_language_model

    model = load_language_model(folder, client)
    return SAMPLE_PROMPT + "".join(continue_text(model, SAMPLE_PROMPT, max_new_tokens=48))


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
