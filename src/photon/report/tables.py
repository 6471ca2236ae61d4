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
    """An HTML table; numbers stand right, with as many decimals each."""
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
    """A line for each way of training: how far it came, and what it took; and for the floor."""
    rows = [_summary_row(curve) for history in histories for curve in history.curves]
    rows += [
        [name, *[None] * 3, loss, bits, *[None] * 3] for name, loss, bits in _floors(histories)
    ]
    head = ("", "steps", "tokens", "training loss", "validation loss", "bits per byte",
            "tokens per second", "sent", "seconds")  # fmt: skip
    return table(head, rows)


def unigram_losses(histories: Sequence[RunHistory]) -> dict[str, float]:
    """The floor of each run by what it is called; one for all runs of which it is the same."""
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
        format_bytes(sent).replace(" ", "\u00a0") if sent else None,  # on one line
        round(seconds),
    ]


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
    if not found:
        return ""
    parts = [
        ("losses (nats per token)", _losses, 3),
        ("composite scores", _composites, 4),
        ("tasks (accuracy)", _tasks, 4),
    ]
    return "".join(
        _side_by_side(caption, {name: pick(one) for name, one in found.items()}, decimals)
        for caption, pick, decimals in parts
    )


def _side_by_side(caption: str, columns: dict[str, dict[str, float | None]], decimals: int) -> str:
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    if not keys:
        return ""
    rows = [[key, *(values.get(key) for values in columns.values())] for key in keys]
    return table(("", *columns), rows, caption, decimals)


def _losses(evaluation: dict[str, Any]) -> dict[str, float | None]:
    return {key: entry.get("loss") for key, entry in evaluation.get("losses", {}).items()}


def _composites(evaluation: dict[str, Any]) -> dict[str, float | None]:
    return {entry["name"]: entry.get("score") for entry in evaluation.get("composites", [])}


def _tasks(evaluation: dict[str, Any]) -> dict[str, float | None]:
    tasks = evaluation.get("tasks", {})
    return {key: task.get("score", {}).get("accuracy") for key, task in tasks.items()}
