"""Tables of a page, as HTML: pure functions of histories."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from photon.console import format_bytes
from photon.page.history import Curve, RunHistory, differing_keys


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """An HTML table; numbers stand right."""
    heads = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return f'<td class="number">{shown}</td>'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{escape('-' if value is None else str(value))}</td>"


def summary_table(histories: Sequence[RunHistory]) -> str:
    """A line for each way of training: how far it came, and what it took."""
    rows = [_summary_row(curve) for history in histories for curve in history.curves]
    head = ("", "steps", "tokens", "training loss", "validation loss", "bits per byte",
            "tokens per second", "sent", "seconds")  # fmt: skip
    return table(head, rows)


def _summary_row(curve: Curve) -> list[Any]:
    last = curve.records[-1]
    sent = curve.axis("bytes")[-1]
    seconds = curve.axis("time")[-1]
    return [
        curve.name,
        last["step"],
        last["tokens"],
        _last(curve, "train_loss"),
        _last(curve, "val_loss"),
        _last(curve, "val_bits_per_byte"),
        last["tokens"] / seconds if seconds else None,
        format_bytes(sent) if sent else None,
        seconds,
    ]


def _last(curve: Curve, key: str) -> float | None:
    chosen = curve.having(key)
    return float(curve.records[chosen[-1]][key]) if chosen else None


def differences_table(histories: Sequence[RunHistory], names: Sequence[str]) -> str:
    """Keys that are not the same in all runs."""
    found = differing_keys(histories)
    rows = [[key, *(_shown(value) for value in values)] for key, values in found.items()]
    return table(("key", *names), rows)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def evaluation_tables(histories: Sequence[RunHistory]) -> str:
    """Scores of all evaluations side by side: losses, composites, tasks."""
    found = {name: one for history in histories for name, one in history.evaluations.items()}
    if not found:
        return ""
    parts = [
        ("losses (nats per token)", _losses),
        ("composite scores", _composites),
        ("tasks (accuracy)", _tasks),
    ]
    return "".join(
        _side_by_side(caption, {name: pick(one) for name, one in found.items()})
        for caption, pick in parts
    )


def _side_by_side(caption: str, columns: dict[str, dict[str, float | None]]) -> str:
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    if not keys:
        return ""
    rows = [[key, *(values.get(key) for values in columns.values())] for key in keys]
    return table(("", *columns), rows, caption)


def _losses(evaluation: dict[str, Any]) -> dict[str, float | None]:
    return {key: entry.get("loss") for key, entry in evaluation.get("losses", {}).items()}


def _composites(evaluation: dict[str, Any]) -> dict[str, float | None]:
    return {entry["name"]: entry.get("score") for entry in evaluation.get("composites", [])}


def _tasks(evaluation: dict[str, Any]) -> dict[str, float | None]:
    tasks = evaluation.get("tasks", {})
    return {key: task.get("score", {}).get("accuracy") for key, task in tasks.items()}
