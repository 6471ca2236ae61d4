"""Plots of a page, as Plotly takes them: pure functions of histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean, median
from typing import Any

from photon.report.history import AXES, Curve, Record, RunHistory
from photon.report.thinning import MOST_BARS, MOST_POINTS, left_out, most_for_each, thinned

COLOURS = ["#1f6fb4", "#d9610f", "#2a8f3c", "#b0282f", "#7b56a8", "#6d4a3f", "#c34f9d", "#5f6670"]
"""Legible on white and on near black."""
STATES = {
    "not asked": "#8883",
    "accepted": "#2a8f3c",
    "late": "#d9a60f",
    "refused": "#b0282f",
    "missing": "#7b56a8",
}
LOSS = "loss (nats per token)"
BYTES = {
    "bytes_up": ("up", "solid", "triangle-up"),
    "bytes_down": ("down", "dash", "triangle-down"),
    "bytes_ddp": ("data-parallel", "dot", "square"),
}
"""Keys of a record -> name, and how the line is told from the other two of its run."""
MANY_CLIENTS = 24
"""Most clients that a legend names; with more of them it names none."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot; without data there is nothing to show.

    Attributes:
        key: unique on its page.
        data, layout: Plotly's.
        note: what to look for, in a sentence.
    """

    key: str
    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    note: str = ""


def loss_plot(curves: Sequence[Curve], floors: Mapping[str, float]) -> Plot:
    """Training and validation losses, with a button for each axis.

    Args:
        floors: name -> loss, drawn as lines from end to end.
    """
    lines = [*_losses(curves), *_floors(curves, floors)]
    places = {axis: [xs[axis] for _, xs in lines] for axis in AXES}
    buttons = [
        {"label": axis, "method": "update", "args": [{"x": xs}, {"xaxis.title.text": AXES[axis]}]}
        for axis, xs in places.items()
    ]
    layout = _layout(AXES["tokens"], LOSS)
    layout["updatemenus"] = [
        {"type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1.16,
         "bgcolor": "#dfe5ea", "font": {"color": "#1b1f24"}, "buttons": buttons}
    ]  # fmt: skip
    note = (
        "Against tokens, steps, bytes or time: the buttons choose. A click on a name hides it, a "
        f"double click leaves it alone. {_left_out(curves)}"
    )
    return Plot("loss", "Loss", [line for line, _ in lines], layout, note.strip())


def _left_out(curves: Sequence[Curve]) -> str:
    return left_out(max((len(curve.records) for curve in curves), default=0))


Placed = tuple[dict[str, Any], dict[str, list[float]]]
"""A line, drawn against tokens, and its places on each axis."""


def _losses(curves: Sequence[Curve]) -> Iterator[Placed]:
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        along = {axis: curve.axis(axis) for axis in AXES}
        for key, kind in (("val_loss", "validation"), ("train_loss", "training")):
            chosen = curve.having(key)
            if not chosen:
                continue
            losses = [curve.records[i][key] for i in chosen]
            chosen = [chosen[i] for i in thinned(losses)]
            xs = {axis: [place[i] for i in chosen] for axis, place in along.items()}
            is_training = key == "train_loss"
            yield {
                "type": "scatter", "mode": "lines" if is_training else "lines+markers",
                "name": f"{curve.name} {kind}", "x": xs["tokens"],
                "y": [curve.records[i][key] for i in chosen],
                "line": {"color": colour, "dash": "dot" if is_training else "solid"},
                "opacity": 0.55 if is_training else 1.0,
            }, xs  # fmt: skip


def _floors(curves: Sequence[Curve], floors: Mapping[str, float]) -> Iterator[Placed]:
    for number, (name, loss) in enumerate(floors.items(), 1):
        along = {axis: [x for curve in curves for x in curve.axis(axis)] for axis in AXES}
        xs = {axis: [min(places), max(places)] for axis, places in along.items()}
        yield {
            "type": "scatter", "mode": "lines", "name": name, "x": xs["tokens"],
            "y": [loss, loss],
            "line": {"color": COLOURS[-number % len(COLOURS)], "dash": "dash", "width": 1.5},
        }, xs  # fmt: skip


def sent_plot(curves: Sequence[Curve]) -> Plot:
    """Bytes sent so far, beside what data-parallel training would have sent."""
    data: list[dict[str, Any]] = []
    for curve in (c for c in curves if c.rounds):
        rounds = [r["round"] for r in curve.rounds]
        for key, (name, dash, symbol) in BYTES.items():
            sums = list(accumulate(record.get(key, 0) for record in curve.rounds))
            colour = COLOURS[len(data) % len(COLOURS)]
            line = _line(f"{curve.name} {name}", rounds, sums, colour, dash)
            data.append(line | {"marker": {"size": 7, "symbol": symbol}})
    layout = _layout("round", "bytes so far")
    layout["yaxis"] |= {"type": "log", "exponentformat": "SI"}
    return Plot("sent", "Bytes", data, layout, _left_out(curves))


def throughput_plot(curves: Sequence[Curve]) -> Plot:
    data = []
    for number, curve in enumerate(curves):
        chosen = curve.having("tokens_per_second")
        along = curve.axis("steps")
        ys = [curve.records[i]["tokens_per_second"] for i in chosen]
        xs = [along[i] for i in chosen]
        if xs:
            data.append(_line(curve.name, xs, ys, COLOURS[number % len(COLOURS)]))
    layout = _layout("optimizer steps", "tokens per second")
    layout["yaxis"]["rangemode"] = "tozero"
    return Plot("throughput", "Throughput", data, layout, _left_out(curves))


def client_plots(history: RunHistory, key: str) -> list[Plot]:
    """What clients did: losses, agreement, norms, who took part, where the time went.

    Args:
        key: unique for the run.
    """
    rounds = history.curve.rounds
    if not rounds:
        return []
    found = [
        _client_losses(rounds),
        _spread(rounds, "client_cosines", "cosine", "Agreement", "cosine to the mean update",
                "1: all clients pull in one direction; 0: none does."),
        _spread(rounds, "client_norms", "norms", "Norms", "norm of the pseudo-gradient",
                "Updates far above the median are refused (fl.max_norm_ratio)."),
        _timeline(rounds) if history.config.get("fl.mode") == "async" else _participation(rounds),
        _stacked(rounds, "phase_seconds", "phases", "Where a round's time went"),
        _stacked(rounds, "device_seconds", "devices", "Where a device's time went",
                 "The mean of all devices: only in train do they compute."),
    ]  # fmt: skip
    return [replace(plot, key=f"{key}-{plot.key}") for plot in found if plot.data]


def _client_losses(rounds: Sequence[Record]) -> Plot:
    clients = sorted({c for record in rounds for c in record.get("client_metrics", {})}, key=int)
    data, most = [], most_for_each(len(clients), MOST_POINTS)
    for number, client in enumerate(clients):
        points = [
            (record["round"], record["client_metrics"][client]["train_loss"])
            for record in rounds
            if "train_loss" in record.get("client_metrics", {}).get(client, {})
        ]
        xs, ys = ([list(part) for part in zip(*points, strict=True)]) if points else ([], [])
        line = _line(f"client {client}", xs, ys, COLOURS[number % len(COLOURS)], most=most)
        data.append(line | {"showlegend": len(clients) <= MANY_CLIENTS})
    return Plot("clients", "Loss of each client", data, _layout("round", f"training {LOSS}"),
                left_out(len(rounds), most))  # fmt: skip


def _spread(
    rounds: Sequence[Record], field: str, key: str, title: str, label: str, note: str
) -> Plot:
    """Smallest, median and largest of the clients, round by round."""
    kept = [record for record in rounds if record.get(field)]
    xs = [record["round"] for record in kept]
    sorted_values = [sorted(record[field].values()) for record in kept]

    def of(name: str, pick: Callable[[list[float]], float], **more: Any) -> dict[str, Any]:
        return _line(name, xs, [pick(values) for values in sorted_values], COLOURS[0]) | more

    faint = {"line": {"color": COLOURS[0], "width": 0.5}}
    data = [
        of("largest", lambda values: values[-1], **faint),
        of("smallest", lambda values: values[0], **faint, fill="tonexty"),
        of("median", median),
    ]
    note = f"{note} {left_out(len(kept))}".strip()
    return Plot(key, title, data if kept else [], _layout("round", label), note)


NAMED = ("refused", "missing", "late", "quarantined")
"""Fields of a record that name clients."""


def _participation(rounds: Sequence[Record]) -> Plot:
    """A cell for each client and round: what became of it."""
    clients = sorted(
        {str(c) for r in rounds for c in r["accepted"]}
        | {c for r in rounds for field in NAMED for c in r.get(field, {})},
        key=int,
    )
    rounds, note = _standing_out(rounds, [len(r["accepted"]) for r in rounds], len(clients))
    layout = _layout("round", "")
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True}
    layout["height"] = max(260, 120 + 22 * min(len(clients), 40))
    data = [_what_became(clients, rounds)] if clients else []
    return Plot("participation", "Who took part", data, layout,
                "Refused and missing clients say why when pointed at." + note)  # fmt: skip


def _what_became(clients: Sequence[str], rounds: Sequence[Record]) -> dict[str, Any]:
    states, count = list(STATES), len(STATES)
    cells = [[_became(record, client) for record in rounds] for client in clients]
    scale = [
        [edge, colour]
        for i, colour in enumerate(STATES.values())
        for edge in (i / count, (i + 1) / count)
    ]
    return {
        "type": "heatmap", "x": [record["round"] for record in rounds],
        "y": [f"client {client}" for client in clients],
        "z": [[states.index(state) for state, _ in row] for row in cells],
        "text": [[f"{state} {why}".strip() for state, why in row] for row in cells],
        "hovertemplate": "%{y}, round %{x}: %{text}<extra></extra>",
        "zmin": -0.5, "zmax": count - 0.5, "colorscale": scale,
        "xgap": int(len(rounds) < MOST_BARS // 2), "ygap": 1,
        "colorbar": {"tickvals": list(range(count)), "ticktext": states},
    }  # fmt: skip


def _standing_out(
    rounds: Sequence[Record], values: Sequence[float], clients: int
) -> tuple[Sequence[Record], str]:
    """The rounds of a long run whose values are the least and the largest of their stretch, and
    what a plot of so many clients says of it.
    """
    kept = [rounds[i] for i in thinned(values, most_for_each(clients, MOST_BARS))]
    if len(kept) == len(rounds):
        return rounds, ""
    return kept, f" {len(kept):,} of {len(rounds):,} rounds are shown, those that stand out."


def _timeline(rounds: Sequence[Record]) -> Plot:
    """A line for each update, from the version that it was made from to the one it went into."""
    clients = sorted({client for record in rounds for client in record["accepted"]})
    latest = [max(record.get("late", {}).values(), default=0) for record in rounds]
    rounds, note = _standing_out(rounds, latest, len(clients))
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for record in rounds:
        for client in record["accepted"]:
            late = record.get("late", {}).get(str(client), 0)
            span = (client, record["round"] - late - 1, record["round"])
            spans.setdefault(late, []).append(span)
    data = [_spans(late, spans[late], number) for number, late in enumerate(sorted(spans))]
    layout = _layout("version", "")
    names = [f"client {client}" for client in clients]
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "automargin": True,
                        "categoryorder": "array", "categoryarray": names}  # fmt: skip
    layout["height"] = max(260, 120 + 22 * min(len(clients), 40))
    return Plot("timeline", "Clients and versions", data, layout,
                "A merge makes a version. Each line is an update: it begins at the version that "
                "its client trained from, and ends at that which it was merged into."
                + note)  # fmt: skip


def _spans(late: int, spans: Sequence[tuple[int, int, int]], number: int) -> dict[str, Any]:
    """The updates of one staleness."""
    xs, ys, texts = [], [], []
    for client, begun, merged in spans:
        xs += [begun, merged, None]
        ys += [f"client {client}"] * 2 + [None]
        texts += [f"from version {begun}, merged into {merged}, {late} late"] * 2 + [None]
    colour = COLOURS[number % len(COLOURS)]
    return {
        "type": "scatter", "mode": "lines+markers", "name": f"{late} merges late", "x": xs, "y": ys,
        "text": texts, "hovertemplate": "%{y}: %{text}<extra></extra>",
        "line": {"color": colour, "width": 3}, "marker": {"size": 5},
    }  # fmt: skip


def _became(record: Record, client: str) -> tuple[str, str]:
    for state in ("refused", "missing"):
        if client in record.get(state, {}):
            return state, f"({record[state][client]})"
    if client in record.get("late", {}):
        return "late", f"(by {record['late'][client]})"
    if int(client) in record["accepted"]:
        return "accepted", ""
    until = record.get("quarantined", {}).get(client)
    return "not asked", "" if until is None else f"(in quarantine until round {until})"


def _stacked(rounds: Sequence[Record], field: str, key: str, title: str, note: str = "") -> Plot:
    """Seconds by part, a bar for one or some rounds, in the order in which records have them."""
    kept = [record for record in rounds if record.get(field)]
    names = list(dict.fromkeys(name for record in kept for name in record[field]))
    size = -(-len(kept) // MOST_BARS)
    bars = [kept[i : i + size] for i in range(0, len(kept), size or 1)]
    data = [
        {"type": "bar", "name": name, "x": [bar[0]["round"] for bar in bars],
         "y": [fmean(record[field].get(name, 0.0) for record in bar) for bar in bars],
         "marker": {"color": COLOURS[number % len(COLOURS)]}}
        for number, name in enumerate(names)
    ]  # fmt: skip
    if size > 1:
        note = f"{note} Each bar is the mean of {size} rounds.".strip()
    return Plot(key, title, data, _layout("round", "seconds") | {"barmode": "stack"}, note)


def _line(
    name: str,
    xs: Sequence[float],
    ys: Sequence[float],
    colour: str,
    dash: str = "solid",
    most: int = MOST_POINTS,
) -> dict[str, Any]:
    shown = thinned(ys, most)
    return {"type": "scatter", "mode": "lines+markers", "name": name,
            "x": [xs[i] for i in shown], "y": [ys[i] for i in shown],
            "line": {"color": colour, "dash": dash}, "marker": {"size": 5}}  # fmt: skip


def _layout(x: str, y: str) -> dict[str, Any]:
    axis = {"title": {"text": y}, "automargin": True}
    if y.endswith(LOSS):
        axis["hoverformat"] = ".3f"
    return {"xaxis": {"title": {"text": x}}, "yaxis": axis,
            "margin": {"l": 60, "r": 16, "t": 48, "b": 48}, "height": 400,
            "legend": {"orientation": "h", "y": -0.22}, "hovermode": "closest"}  # fmt: skip
