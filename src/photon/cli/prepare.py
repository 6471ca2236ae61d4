"""`photon prepare`."""

from __future__ import annotations

import re
import signal
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from photon.cli.options import PATH, overrides_argument
from photon.errors import Interrupted

if TYPE_CHECKING:
    from photon.config import Config
    from photon.config.dataset import Data

_KEYS = "dataset.prepare"
_EMBEDDED = (
    "the embedded corpus is prepared for all clients, by the keys of dataset.embedded; "
    "give --source"
)


@click.command(name="prepare")
@click.option(
    "--out", type=PATH, help="Folder to make; default: data/ with a name that the settings give."
)
@click.option("--source", help="File, folder or Hugging Face dataset; else the embedded corpus.")
@click.option("--tokenizer", help="tokenizer.json, its folder, or a name on the Hugging Face hub.")
@click.option(
    "--train-tokenizer", metavar="vocab_size=N", help="Train a tokenizer of that size on the text."
)
@click.option("--clients", help="Numbers of those this site hosts, as in 4-7 or 4-4; else all.")
@click.option("--partition", help="iid, source, dirichlet or size.")
@overrides_argument
def command(
    out: Path | None,
    train_tokenizer: str | None,
    clients: str | None,
    overrides: tuple[str, ...],
    **given: str | None,
) -> None:
    """Turn text into token rows for the clients of a federation.

    Without a source: the source of the running Python's standard library. An interrupted
    preparation goes on when it is called again; a finished one is left alone.

    \b
    photon prepare
    photon prepare --out data/by-package dataset=embedded-by-source fl.n_total_clients=4
    photon prepare --source texts/ --train-tokenizer vocab_size=8192 --out data/mine
    photon prepare --source c4 --tokenizer EleutherAI/gpt-neox-20b --out fed-c4/c8/en \\
        dataset=fed-c4 llm_config=mpt-125m
    photon prepare --source crawl.jsonl.zst --partition dirichlet --out data/skewed \\
        dataset.prepare.source_column=language dataset.prepare.alpha=0.1
    photon prepare --source texts/ --tokenizer tokenizer.json --clients 4-7 --out data/mine
    photon train dataset.train.root_local=data/mine
    """
    by_option: dict[str, dict[str, Any]] = {
        f"--{name}": {f"{_KEYS}.{name}": value}
        for name, value in given.items()
        if value is not None
    }
    if train_tokenizer is not None:
        if given["tokenizer"] is not None:
            raise click.UsageError("--tokenizer and --train-tokenizer exclude each other")
        size = _vocab_size(train_tokenizer)
        by_option["--train-tokenizer"] = {f"{_KEYS}.tokenizer": None, f"{_KEYS}.vocab_size": size}
    if clients is not None:
        by_option["--clients"] = _own_clients(clients)
    config = _composed(overrides, by_option)
    if config.data.prepare.source is None and out is None:
        from photon.run.preparation import prepare

        config, _ = prepare(config, click.echo)
        click.echo(f"folder      {config.data.train.root}")
    else:
        _prepare(config.data, config.federation.population, config.inner.row_length, out)


def _composed(overrides: tuple[str, ...], by_option: dict[str, dict[str, Any]]) -> Config:
    """The configuration, with the keys that options stand for.

    Raises:
        UsageError: an option of a source without one, or beside its key with another value.
    """
    from photon.config import load_config
    from photon.config.compose import with_values
    from photon.config.explain.idle import note_idle

    config = load_config(overrides)
    values = {key: value for keys in by_option.values() for key, value in keys.items()}
    changed = with_values(config, values)
    before, after = config.values_by_key(), changed.values_by_key()
    for (option, keys), text in product(by_option.items(), overrides):
        for key in _named_by(text) & keys.keys():
            if before[key] != after[key]:
                raise click.UsageError(f"{option} and {text} say two things of {key}; give one")
    if changed.data.prepare.source is None:
        if by_option:
            raise click.UsageError(f"{next(iter(by_option))}: {_EMBEDDED}")
        below = [text for text in overrides if any(k.startswith(_KEYS) for k in _named_by(text))]
        note_idle((text, _EMBEDDED) for text in below)
    return changed


def _named_by(override: str) -> set[str]:
    """The keys that an override gives, one by one or as values of a section."""
    from photon.config.overrides import parse_override

    found = parse_override(override)
    key, value = found.key_or_group, found.value()
    return {f"{key}.{name}" for name in value} if isinstance(value, dict) else {key}


def _own_clients(text: str) -> dict[str, int]:
    from photon.wire.enrolment import parse_clients

    if re.fullmatch(r"[1-9][0-9]*", text.strip()):
        count = int(text)
        raise click.UsageError(
            f"--clients {text}: write 0-{count - 1} for {count} clients, or {count}-{count} for "
            f"client number {count} alone"
        )
    numbers = parse_clients(text)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise click.UsageError(f"--clients {text}: must be one range; prepare each into a folder")
    return {"fl.n_total_clients": len(numbers), f"{_KEYS}.first_client": numbers[0]}


def _vocab_size(text: str) -> int:
    match = re.fullmatch(r"(?:vocab_size=)?([0-9][0-9_]*)", text)
    if match is None:
        raise click.UsageError(f"--train-tokenizer takes vocab_size=N, got {text!r}")
    return int(match[1].replace("_", ""))


def _prepare(data: Data, clients: int, length: int, out: Path | None) -> None:
    from photon.data.prepare.embedded import prepare_embedded
    from photon.data.prepare.text import prepare_text
    from photon.report.console import Console
    from photon.report.progress import preparation_progress

    keys, out = data.prepare, out or _default_folder(data, clients)
    try:
        with preparation_progress(Console()) as report:
            if keys.source is None:
                made = prepare_embedded(out, data.embedded, clients, length, click.echo, report)
            else:
                made = prepare_text(out, keys, clients, length, click.echo, report)
    except KeyboardInterrupt as error:
        raise Interrupted(signal.SIGINT, "interrupted; the same command goes on") from error
    click.echo("\n".join(_summary(made, out)))
    click.echo(f"folder      {out}")


def _default_folder(data: Data, clients: int) -> Path:
    """`fed-c4/c8/en` for eight clients of `dataset=fed-c4`."""
    root = data.train.root or f"data/{data.name}"
    return Path(root) / f"c{clients}" / (data.prepare.name or "text")


def _files(data: dict[str, Any]) -> list[str]:
    """What became of the files below a local source."""
    from photon.data.prepare.listing import phrases

    files = data["files"]
    if not files or files[0]["bytes"] is None:
        return []
    copies = sum("copy" in file for file in files)
    opened = sum("sha256" in file for file in files) - copies
    left_out = "; ".join(phrases(data.get("left_out", {})))
    return [
        f"files       {len(files):,} = {opened:,} read + {copies:,} copies + "
        f"{len(files) - opened - copies:,} not needed; left out: {left_out or 'none'}"
    ]


def _summary(data: dict[str, Any], out: Path) -> list[str]:
    """What became of the text, so that it adds up."""
    from photon.data.manifest import clients_of
    from photon.data.prepare.summary import held_out_lines
    from photon.wire.enrolment import format_clients

    t = data["totals"]
    cut = f" + {t['stretches']:,} by cutting long ones" if t.get("stretches") else ""
    return [
        *_files(data),
        f"documents   {t['documents']:,} read{cut} = {t['written']:,} written + "
        f"{t['empty']:,} empty + "
        f"{t['skipped']:,} beyond full parts; {t['copies']:,} copies left out before",
        f"tokens      {t['text_tokens']:,} = {t['tokens']:,} targets in {t['rows']:,} rows + "
        f"{t['first_tokens']:,} first + {t['remainder_tokens']:,} left over; "
        f"{t['cut_tokens']:,} cut at full parts",
        *(f"validation  {line}" for line in held_out_lines(out)),
        f"prepared    {data['train_tokens']:,} training tokens for "
        f"clients {format_clients(clients_of(data))}, digest {data['digest']}",
    ]
