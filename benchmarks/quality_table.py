"""What runs of `quality.py` come to, as Markdown and plots. Pure functions of its log's lines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quality_arms import ALONE, CENTRALISED, MAIN, arm_of, is_known, place_of
from quality_plan import FLOOR, LATENCY, LINKS, SITE
from quality_setting import Setting, setting_of
from quality_tuning import SEED, Record, best, loss_of, rates_of, tried

Runs = Mapping[tuple[str, Setting], Mapping[int, Record]]
"""Reported runs by arm and setting, then by seed."""
LINK = "100 Mbit/s"
"""Of which curves have the planned time."""
SWEPT = ("DiLoCo", "recipe")
"""Arms that are run in many settings."""
MB = 1e6


@dataclass(frozen=True, slots=True)
class Row:
    """An arm in a setting, over its seeds.

    Attributes:
        losses, centralised, alone: by seed; the latter over those of the baselines with the same
            seed, in bits per byte, since tokens differ a little with the number of clients.
        sent: bytes, both ways; None: nothing.
        less: how many times less than data-parallel training among as many clients.
        minutes: by link, planned.
    """

    arm: str
    setting: Setting
    losses: tuple[float, ...]
    centralised: tuple[float, ...]
    alone: tuple[float, ...]
    sent: float | None
    less: float | None
    minutes: Mapping[str, float]
    rates: str
    tuned: str


def gathered(records: Iterable[Record]) -> Runs:
    """The newest of each run that is no part of tuning, in the order of the arms."""
    return _by_arm(record for record in records if record["seed"] != SEED)


def searched(records: Iterable[Record]) -> Runs:
    """The best of each arm at the seed of tuning."""
    own = [record for record in records if record["seed"] == SEED]
    return _by_arm(sorted(own, key=loss_of, reverse=True))


def _by_arm(records: Iterable[Record]) -> Runs:
    """The last of each."""
    found: dict[tuple[str, Setting], dict[int, Record]] = {}
    for record in records:
        if is_known(record["arm"]):
            found.setdefault((record["arm"], setting_of(record)), {})[record["seed"]] = record
    return dict(sorted(found.items(), key=lambda item: place_of(item[0][0])))


def rows(runs: Runs, setting: Setting) -> list[Row]:
    """All arms in a setting of a federation, the baselines that belong to it among them."""
    found = [
        (name, runs[own])
        for name in dict.fromkeys(name for name, _ in runs)
        if (own := (name, arm_of(name).placed(setting))) in runs
    ]
    twin = next((t for _, by in found for r in by.values() if (t := r.get("data_parallel"))), None)
    return [_row(runs, name, setting, by, twin) for name, by in found]


def _row(
    runs: Runs, name: str, setting: Setting, by: Mapping[int, Record], twin: Record | None
) -> Row:
    records = list(by.values())
    sent = max(r.get("bytes_up", 0) + r.get("bytes_down", 0) for r in records)
    beside = (twin or {}).get("bytes", 0.0)
    return Row(
        arm=name,
        setting=setting,
        losses=tuple(loss_of(r) for _, r in sorted(by.items())),
        centralised=_ratios(by, runs.get((CENTRALISED, setting.joined()), {})),
        alone=_ratios(by, runs.get((ALONE, setting.apart()), {})),
        sent=beside or None if arm_of(name).trains == "centralised" else sent or None,
        less=beside / sent if sent and beside else None,
        minutes=_minutes(name, records, twin),
        rates=", ".join(dict.fromkeys(str(rates_of(r)) for r in records)),
        tuned="; ".join(dict.fromkeys(r["tuned"] for r in records if r["tuned"])),
    )


def _ratios(by: Mapping[int, Record], others: Mapping[int, Record]) -> tuple[float, ...]:
    """By common seed."""
    return tuple(
        bits(record) / bits(others[seed])
        for seed, record in sorted(by.items())
        if seed in others and math.isfinite(bits(others[seed]))
    )


def bits(record: Record) -> float:
    return math.inf if record["val_loss"] is None else record["bits_per_byte"]


def _minutes(name: str, records: Sequence[Record], twin: Record | None) -> dict[str, float]:
    if arm_of(name).trains == "centralised":
        seconds = (twin or {}).get("seconds", {})
    else:
        ends = [curve[-1] for r in records if (curve := r.get("curve"))]
        seconds = ends[0]["seconds"] if ends else {}
    return {link: value / 60 for link, value in seconds.items()}


def table(records: Iterable[Record]) -> str:
    """Everything as Markdown; nothing where there are no lines."""
    records = list(records)
    runs, search = gathered(records), searched(records)
    sweeps = (("local steps", "local_steps"), ("clients", "clients"), ("split", "split"))
    parts = [
        *(_of_setting(runs, setting) for setting in federations(runs) if _is_wide(runs, setting)),
        *(_sweep(runs, *sweep) for sweep in sweeps),
        *(_curves(runs, setting) for setting in federations(runs)[:1]),
        _tuning(records),
        *(_of_setting(search, setting, SEARCHED) for setting in federations(search)),
    ]
    return "\n".join([ABOUT, *filter(None, parts)]) if records else ""


def _is_wide(runs: Runs, setting: Setting) -> bool:
    """Whether it has more than a line of a sweep."""
    own = {name for name, where in runs if where == setting}
    return setting == Setting() or len(own) > len(SWEPT)


def federations(runs: Runs) -> list[Setting]:
    """Settings in which one was run."""
    return list(dict.fromkeys(s for name, s in runs if arm_of(name).trains == "federated"))


ABOUT = f"""\
Validation loss in nats per token: mean (least .. most) over seeds. Ratios are of bits per byte, seed by seed, to the tuned centralised
run and to one client alone. Bytes of federations are counted, both ways; of the centralised run they are those of its data-parallel twin
(ring all-reduce of bf16 gradients). Minutes are planned for clients of {SITE / 1e9:g} GFLOP/s, links of {" / ".join(LINKS)} with
{1000 * LATENCY:g} ms one way, and a floor of {FLOOR:g} s a round. Rates: inner / outer.
"""  # noqa: E501
HEAD = (
    "| arm | seeds | loss | / centralised | / alone | sent | less than data-parallel | "
    "planned minutes | rates | tuned |"
)


SEARCHED = f"Searched at seed {SEED}, which no table above has, the best rates of each: "


def _of_setting(runs: Runs, setting: Setting, before: str = "") -> str:
    lines = [_line(row) for row in rows(runs, setting)]
    title = f"{before}{setting.title}:"
    title = title[0].upper() + title[1:]
    return "\n".join([title, "", HEAD, _rule(HEAD), *lines, ""])


def _rule(head: str) -> str:
    return "|" + "---|" * (head.count("|") - 1)


def _line(row: Row) -> str:
    cells = [
        row.arm,
        str(len(row.losses)),
        spread(row.losses),
        spread(row.centralised),
        spread(row.alone),
        "" if row.sent is None else f"{row.sent / MB:,.1f} MB",
        "" if row.less is None else f"{row.less:.1f}x",
        " / ".join(f"{row.minutes[link]:.1f}" for link in LINKS if link in row.minutes),
        row.rates,
        row.tuned,
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """Mean (least .. most)."""
    if not values:
        return ""
    if not all(map(math.isfinite, values)):
        return "diverged"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} .. {max(values):.3f})"


def _sweep(runs: Runs, title: str, name: str) -> str:
    """For each arm that was run at several values of one part of the setting, its ratios beside
    each other; all else is the same in a line.
    """
    by: dict[tuple[str, str], dict[object, Row]] = {}
    for arm, setting in runs:
        if arm_of(arm).trains == "federated":
            row = next(row for row in rows(runs, setting) if row.arm == arm)
            by.setdefault((arm, _rest(setting, name)), {})[getattr(setting, name)] = row
    swept = {line: found for line, found in by.items() if len(found) > 1}
    values = list(dict.fromkeys(value for found in swept.values() for value in found))
    values.sort(key=lambda value: (str(type(value)), value))  # pyright: ignore[reportCallIssue]
    if not values:
        return ""
    head = "| arm | " + " | ".join(f"{title} {value}" for value in values) + " | in |"
    lines = [
        f"| {arm} | {' | '.join(_cell(found.get(value)) for value in values)} | {rest} |"
        for (arm, rest), found in swept.items()
    ]
    return "\n".join([f"By {title}, to the centralised run, and bytes less:", "", head,
                      _rule(head), *lines, ""])  # fmt: skip


def _rest(setting: Setting, name: str) -> str:
    parts = {
        "model": setting.model, "split": setting.split, "clients": f"{setting.clients} clients",
        "local_steps": f"{setting.local_steps} local steps", "steps": f"{setting.steps} in all",
    }  # fmt: skip
    return ", ".join(text for key, text in parts.items() if key != name)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    less = "" if row.less is None else f", {row.less:.0f}x"
    return (spread(row.centralised) or spread(row.losses)) + less


def _curves(runs: Runs, setting: Setting) -> str:
    """Loss on the way, of the main arms."""
    head = f"| arm | steps | tokens | sent | planned minutes, {LINK} | loss |"
    lines = [
        f"| {name} | {point.step} | {point.tokens:,} | {point.sent / MB:,.1f} MB | "
        f"{_shown(point.minutes)} | {spread(point.losses)} |"
        for name in MAIN
        for point in curve(runs, name, setting)
    ]
    return "\n".join([f"On the way, {setting.title}:", "", head, _rule(head), *lines, ""])


def _shown(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f}"


@dataclass(frozen=True, slots=True)
class Point:
    """Where an arm is after so many steps, over its seeds; bytes are the first seed's."""

    step: int
    tokens: int
    sent: float
    minutes: float | None
    losses: tuple[float, ...]


def curve(runs: Runs, name: str, setting: Setting) -> list[Point]:
    """An arm's way; that of the centralised run is sent and planned as its data-parallel twin."""
    own = runs.get((name, arm_of(name).placed(setting)), {})
    curves = [c for _, r in sorted(own.items()) if (c := r.get("curve"))]
    whole = next((row for row in rows(runs, setting) if row.arm == name), None)
    if not curves or whole is None:
        return []
    found = []
    for points in zip(*curves, strict=False):
        first, share = points[0], points[0]["step"] / setting.steps
        seconds = first["seconds"].get(LINK)
        minutes, sent = None if seconds is None else seconds / 60, first["bytes"]
        if arm_of(name).trains == "centralised":
            end = whole.minutes.get(LINK)
            minutes, sent = None if end is None else share * end, share * (whole.sent or 0)
        losses = tuple(point["val_loss"] for point in points)
        found.append(Point(first["step"], first["tokens"], sent, minutes, losses))
    return found


def _tuning(records: Sequence[Record]) -> str:
    """What grids have found."""
    head = "| arm | in | rates: loss | best |"
    lines = []
    for name, setting in searched(records):
        losses, choice = tried(records, name, setting), best(records, name, setting)
        if len(losses) > 1:
            each = ", ".join(f"{rates}: {spread([loss])}" for rates, loss in losses.items())
            found = "not all run" if choice is None else f"{choice.rates} ({choice.how})"
            lines.append(f"| {name} | {setting.title} | {each} | {found} |")
    title = f"Tuned at seed {SEED}:"
    return "\n".join([title, "", head, _rule(head), *lines, ""]) if lines else ""


AXES: dict[str, tuple[str, Callable[[Point], float | None]]] = {
    "bytes": ("sent, MB", lambda point: point.sent / MB),
    "time": (f"planned minutes, {LINK}", lambda point: point.minutes),
}


def plots(records: Iterable[Record], folder: Path) -> list[Path | None]:
    """Loss of the main arms against bytes and planned time, for the first setting; the files."""
    runs = gathered(records)
    setting = next(iter(federations(runs)), None)
    if setting is None:
        return []
    return [plot(runs, setting, axis, folder / f"quality-{axis}.png") for axis in AXES]


def plot(runs: Runs, setting: Setting, axis: str, target: Path) -> Path | None:
    """Loss against `bytes` or `time`, with the spread of the seeds; the file."""
    from photon.report.figures import pyplot, save_figure

    figure, axes = pyplot().subplots(figsize=(8, 5), dpi=120)
    label, where = AXES[axis]
    for name in MAIN:
        found = [(x, p.losses) for p in curve(runs, name, setting) if (x := where(p))]
        if found:
            xs, losses = [x for x, _ in found], [each for _, each in found]
            axes.plot(xs, [statistics.fmean(own) for own in losses], marker="o", label=name)
            axes.fill_between(xs, list(map(min, losses)), list(map(max, losses)), alpha=0.2)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("validation loss")
    axes.set_title(setting.title, fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    return save_figure(figure, target)
