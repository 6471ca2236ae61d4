"""What `peers.py` has logged, for people: peer over Photon, so a faster peer is less than 1."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
NOTES = {
    "photon": "Each round is committed and durable, and every payload is verified. The first "
    "parameters are seeded, so the first of all the rounds (two more than are timed) sends nothing "
    "down: that is why a node has received less than one payload a round",
    "flower": "Flower starts a process for each message that a node gets; Photon's messages go "
    "through Flower too, several a round, by forks of a process that is there. Checkpoints, "
    "verification and going on with a broken round are left to the app. It has what Photon has "
    "not: Bulyan and XGBoost, a simulation engine on Ray, SDKs for phones, a hub of apps",
    "torchft": "Replicas are processes that stay and hold the model; pseudo-gradients go from "
    "memory to memory by gloo's ring, with no server and no disk on the way. It averages after "
    "every step if wanted, heals a replica live from another's memory, and composes with FSDP. "
    "All replicas must reach each other; nothing is encrypted, checked, weighed or kept",
    "hivemind": "Peers find each other by a DHT, behind NATs too, and need no server. Each round "
    "forms its group anew, which takes seconds. It compresses to fp16 or 8 bits, and has "
    "mixtures of experts over the internet. Nobody commits a round",
    "plain torch": "A hundred lines; nothing is written, so nothing is resumed, checked or sent",
    "Hugging Face Trainer": "It has more models, callbacks, integrations, DeepSpeed, and LoRA",
    "lm-eval": "It has hundreds of tasks and other back ends; Photon's model class runs there too",
}
"""Peer -> what it does that Photon does not, and what the figures do not say."""


def table(records: Sequence[Record]) -> str:
    """Markdown: rounds beside the peers of the wire, other comparisons, what is not to be had."""
    parts = [*_rounds(records), *_others(records), *_missing(records), *_notes(records)]
    return "\n".join(parts).strip()


ROUNDS = ("peer", "MB", "s a round", "CPU s a round", "server MB", "node MB", "sent", "received",
          "CPU: peer / Photon", "seconds: peer / Photon")  # fmt: skip


def _rounds(records: Sequence[Record]) -> Iterator[str]:
    found = [r for r in records if r["part"] == "rounds" and "missing" not in r]
    if not found:
        return
    loads = [r["load"] for r in found if "load" in r]
    yield from _head(ROUNDS)
    for size in sorted({r["megabytes"] for r in found}):
        for peer in dict.fromkeys(r["peer"] for r in found):
            group = [r for r in found if (r["peer"], r["megabytes"]) == (peer, size)]
            if group:
                yield _round_row(peer, size, group, found)
    yield ("\nMedians; a round without training. Sent and received: by a node, in payloads of "
           "fp32. Memory: what the kernel cannot take back, of the server's processes together "
           "and of the largest node's (of peers without a server: the mean). The machine's load "
           f"was {min(loads, default=0):g} to {max(loads, default=0):g}.\n")  # fmt: skip


def _round_row(peer: str, size: float, group: Sequence[Record], found: Sequence[Record]) -> str:
    ours = {r["pair"]: r for r in found if (r["peer"], r["megabytes"]) == ("photon", size)}
    pairs = [(r, ours[r["pair"]]) for r in group if r["pair"] in ours]
    cells = [
        peer, f"{size:g}", _number(_median(group, lambda r: statistics.median(r["seconds"]))),
        *(_number(_median(group, lambda r, k=key: r[k])) for key in
          ("cpu_seconds", "server_megabytes", "node_megabytes")),
        *(f"{_median(group, lambda r, k=key: r[k]) / size:.2f}" for key in
          ("up_megabytes", "down_megabytes")),
        _ratio([r["cpu_seconds"] / o["cpu_seconds"] for r, o in pairs]),
        _ratio([statistics.median(r["seconds"]) / statistics.median(o["seconds"])
                for r, o in pairs]),
    ]  # fmt: skip
    return _row(cells)


def _others(records: Sequence[Record]) -> Iterator[str]:
    rows = [*_diloco(records), *_steps(records), *_scores(records)]
    if rows:
        yield from _head(("peer", "what", "CPU: peer / Photon", "and"))
        yield from map(_row, rows)
        yield ""


def _diloco(records: Sequence[Record]) -> Iterator[list[str]]:
    found = _of(records, "diloco")
    if not found:
        return
    apart = max(r["parameter_gap"] for r in found)
    ratios = [r["peer_cpu_seconds"] / r["our_cpu_seconds"] for r in found]
    yield ["plain torch", f"a round of {found[0]['local_steps']} local steps, 4 clients",
           _ratio(ratios), f"after {found[0]['rounds']} rounds no parameter is further apart than "
           f"{apart:.1g}"]  # fmt: skip


def _steps(records: Sequence[Record]) -> Iterator[list[str]]:
    for r in _of(records, "trainer"):
        spread = f"{r['ratio_min']:.2f} .. {r['ratio_max']:.2f} in {r['pairs']} pairs"
        yield [r["peer"], f"a step of {r['family']}, {r['size']}", _ratio([r["ratio"]]), spread]


def _scores(records: Sequence[Record]) -> Iterator[list[str]]:
    for r in _of(records, "scores"):
        gap = f"answers differ by {r['largest_relative_gap']:.1g} at most"
        yield [r["peer"], f"{r['requests']} requests of {r['task']}", _ratio([r["ratio"]]), gap]


def _missing(records: Sequence[Record]) -> Iterator[str]:
    """The last reason of each that was never measured."""
    measured = {r["peer"] for r in records if "missing" not in r}
    reasons = {r["peer"]: r["missing"] for r in records if "missing" in r}
    for peer, reason in reasons.items():
        if peer not in measured:
            yield f"- {peer} could not be run: {reason}"


def _notes(records: Sequence[Record]) -> Iterator[str]:
    met = {r["peer"] for r in records}
    for peer, text in NOTES.items():
        if peer in met:
            yield f"- **{peer}**: {text}."


def _of(records: Sequence[Record], part: str) -> list[Record]:
    return [r for r in records if r["part"] == part and "missing" not in r]


def _median(group: Sequence[Record], value: Callable[[Record], float]) -> float:
    return statistics.median(map(value, group))


def _ratio(values: Sequence[float]) -> str:
    """Two digits; a peer that is faster is marked."""
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.2g}" + (" (peer faster)" if middle < 1 else "")


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(names), "|---" * len(names) + "|"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
