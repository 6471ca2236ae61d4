"""The page itself: HTML that needs no server, no network and no other file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from photon.data.manifest import finite
from photon.report.comparison import bytes_line, epsilon_line, loss_line
from photon.report.history import RunHistory
from photon.report.plots import Plot, client_plots, loss_plot, sent_plot, throughput_plot
from photon.report.tables import (
    differences_table,
    evaluation_tables,
    summary_table,
    table,
    unigram_losses,
)

VERSIONS = ("photon", "torch", "python", "commit", "kind")


def render(histories: Sequence[RunHistory], plotly: str) -> str:
    """A page for one run, or one that compares several.

    Args:
        plotly: source of plotly.js, which goes into the page.
    """
    sections, plots = _sections(histories)
    title = " / ".join(history.name for history in histories)
    links = "".join(f'<a href="#{key}">{escape(head)}</a>' for key, head, _ in sections)
    body = "".join(
        f'<section id="{key}"><h2>{escape(head)}</h2>{html}</section>'
        for key, head, html in sections
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_own('page.css')}</style></head>"
        f"<body><h1>{escape(title)}</h1><nav>{links}</nav>{body}"
        f'<script type="application/json" id="plots">{_plots_json(plots)}</script>'
        f"<script>{plotly}</script><script>{_own('page.js')}</script></body></html>"
    )


def _sections(histories: Sequence[RunHistory]) -> tuple[list[tuple[str, str, str]], list[Plot]]:
    """(anchor, heading, HTML) of each section, and all plots in them."""
    curves = [curve for history in histories for curve in history.curves]
    losses = loss_plot(curves, unigram_losses(histories))
    shared = [p for p in (losses, sent_plot(curves), throughput_plot(curves)) if p.data]
    plots = list(shared)
    told = "".join(map(_told, histories)) + summary_table(histories)
    sections = [("overview", "Overview", told + _figures(shared))]
    for number, history in enumerate(histories):
        own = client_plots(history, f"run{number}")
        plots += own
        if own:
            heading = "Clients" if len(histories) == 1 else f"Clients of {history.name}"
            sections.append((f"clients{number}", heading, _figures(own)))
    if scores := evaluation_tables(histories):
        sections.append(("evaluation", "Evaluation", scores))
    sections.append(("configuration", "Configuration", _configuration(histories)))
    return sections, plots


def _told(history: RunHistory) -> str:
    """Where a run is, its bytes and, at its end, its ratios of losses: what the terminal says."""
    curve, status = history.curve, history.status
    lines: list[str | None] = [f"{history.name}: {status.state} after {status.place}"]
    if curve.is_federated:
        lines.append(bytes_line(*map(curve.total, ("bytes_up", "bytes_down", "bytes_ddp"))))
        price = map(curve.last, ("epsilon", "delta", "epsilon_of_updates"))
        lines.append(epsilon_line(*price))
    loss = curve.last("val_loss")
    if curve.is_federated and loss is not None and status.state == "ended":
        beside = {label: one.last("val_loss") for label, one in history.baselines.items()}
        lines.insert(1, loss_line(loss, beside.get("centralized"), beside.get("alone")))
    return f"<p>{'<br>'.join(escape(line) for line in lines if line)}</p>"


def _configuration(histories: Sequence[RunHistory]) -> str:
    names = [history.name for history in histories]
    facts = [[name, *(h.facts.get(name) for h in histories)] for name in VERSIONS]
    versions = table(("", *names), [row for row in facts if any(row[1:])])
    if len(histories) > 1:
        return "<h3>What differs</h3>" + differences_table(histories, names) + versions
    rows = [[key, str(value)] for key, value in histories[0].config.items()]
    every = f"<details><summary>every key</summary>{table(('key', 'value'), rows)}</details>"
    return versions + every


def _figures(plots: Sequence[Plot]) -> str:
    wide = {"loss", "participation", "timeline"}
    parts = []
    for plot in plots:
        kind = ' class="wide"' if plot.key.rpartition("-")[2] in wide else ""
        note = f'<p class="note">{escape(plot.note)}</p>' if plot.note else ""
        parts.append(
            f'<figure{kind}><h3>{escape(plot.title)}</h3>{note}<div id="{plot.key}"></div></figure>'
        )
    return f'<div class="plots">{"".join(parts)}</div>'


def _plots_json(plots: Sequence[Plot]) -> str:
    values = [{"key": plot.key, "data": plot.data, "layout": plot.layout} for plot in plots]
    return json.dumps(finite(values)).replace("<", "\\u003c")  # or a name could end the script


def _own(name: str) -> str:
    return (files("photon.report") / name).read_text(encoding="utf-8")
