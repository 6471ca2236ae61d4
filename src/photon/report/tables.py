"""Tables of a page, as HTML: pure functions of histories."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from photon.report.console import format_bytes
from photon.report.history import Curve, RunHistory, differing_keys

UNIGRAM = "unigram model"


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "", decimals: int = 3
) -> str:
    """An HTML table; numbers stand right, and fractions all have that many decimals."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(_cell(v, decimals) for v in row) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any, decimals: int) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:,.{decimals}f}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape('-' if value is None else str(value))}</td>"


def summary_table(histories: Sequence[RunHistory]) -> str:
    """A row for each way of training, how far it came and what it took; and the unigram model's."""
    rows = [_summary_row(curve) for history in histories for curve in history.curves]
    rows += [
        [name, *[None] * 3, loss, bits, *[None] * 4] for name, loss, bits in _floors(histories)
    ]
    head = ("", "steps", "tokens", "training loss", "validation loss", "bits per byte",
            "tokens per second", "devices busy", "sent", "seconds")  # fmt: skip
    return table(head, rows)


def unigram_losses(histories: Sequence[RunHistory]) -> dict[str, float]:
    """Validation losses of the unigram models by run; one for all where all have the same."""
    return {name: loss for name, loss, _ in _floors(histories)}


def _floors(histories: Sequence[RunHistory]) -> list[tuple[str, float, float]]:
    """(name, loss, bits per byte) of the unigram models."""
    known = [
        (h.name, h.unigram["val_loss"], h.unigram["bits_per_byte"]) for h in histories if h.unigram
    ]
    if len({found[1:] for found in known}) == 1:
        return [(UNIGRAM, *known[0][1:])]
    return [(f"{name}: {UNIGRAM}", *found) for name, *found in known]


def _summary_row(curve: Curve) -> list[Any]:
    last = curve.records[-1]
    sent = curve.axis("bytes")[-1]
    seconds = curve.axis("time")[-1]
    return [
        curve.name,
        last["step"],
        last["tokens"],
        curve.last("train_loss"),
        curve.last("val_loss"),
        curve.last("val_bits_per_byte"),
        round(last["tokens"] / seconds) if seconds else None,
        _busy(curve),
        format_bytes(sent).replace(" ", "\u00a0") if sent else None,  # on one line
        round(seconds),
    ]


def _busy(curve: Curve) -> str | None:
    """The share of their time in which devices trained, over all rounds that say it."""
    spent = [r["device_seconds"] for r in curve.rounds if r.get("device_seconds")]
    whole = sum(sum(parts.values()) for parts in spent)
    return f"{sum(parts.get('train', 0.0) for parts in spent) / whole:.0%}" if whole else None


def differences_table(histories: Sequence[RunHistory], names: Sequence[str]) -> str:
    """Keys that are not the same in all runs."""
    rows = [
        [key, *("null" if value is None else str(value) for value in values)]
        for key, values in differing_keys(histories).items()
    ]
    return table(("key", *names), rows)


def evaluation_tables(histories: Sequence[RunHistory]) -> str:
    """Scores of all evaluations side by side: losses, composites, tasks."""
    found = {name: one for history in histories for name, one in history.evaluations.items()}
    losses = {n: {k: v["loss"] for k, v in one["losses"].items()} for n, one in found.items()}
    composites = {n: {c["name"]: c["score"] for c in one["composites"]} for n, one in found.items()}
    tasks = {
        n: {k: task["score"]["accuracy"] for k, task in one["tasks"].items()}
        for n, one in found.items()
    }
    return (
        _side_by_side("losses (nats per token)", losses, 3)
        + _side_by_side("composite scores", composites, 4)
        + _side_by_side("tasks (accuracy)", tasks, 4)
    )


def _side_by_side(caption: str, columns: dict[str, dict[str, float | None]], decimals: int) -> str:
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    if not keys:
        return ""
    rows = [[key, *(values.get(key) for values in columns.values())] for key in keys]
    return table(("", *columns), rows, caption, decimals)
