"""`photon verify`: a run's chain, and whether what lies beside it is what the chain says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import photon
from photon.chain.ledger import (
    FILE,
    heads_in,
    is_of,
    link_in,
    merged_rounds,
    rounds_in,
    whole_lines,
)
from photon.chain.link import Head, Link, mark_of, parse_link
from photon.chain.receipts import Receipt, read_receipts
from photon.chain.walk import Check, Known, Walk, name_of, walk
from photon.config.between.resume import digest
from photon.config.resolve import Run
from photon.data.tokenizer import tokenizer_digest
from photon.errors import (
    CheckpointError,
    ConfigError,
    CorruptCheckpoint,
    DataError,
    PayloadError,
    PhotonError,
    RunFolderError,
)
from photon.run import artifact
from photon.run.checkpoint import list_checkpoints, number_of, verified
from photon.run.kinds import ELSEWHERE, FEDERATED, NODE
from photon.run.releases import FOLDER, NAME, lack
from photon.run.results import read_summary
from photon.run.run_folder import is_held, read_config, read_facts, read_run
from photon.run.trackers import parse, read_lines
from photon.wire.signatures import fingerprint


def verify_run(
    folder: Path, keys: Sequence[Path] = (), receipts: Sequence[Path] = ()
) -> Iterator[Check]:
    """Check a run; it may be under way.

    Args:
        keys: folders of `photon keys`.
        receipts: files that nodes have kept.

    Yields:
        What was looked at. A chain that is broken is compared with nothing.

    Raises:
        RunFolderError: there is no chain.
        ConfigError: no keys there, or no receipts.
    """
    if missing := [path for path in receipts if not path.is_file()]:
        raise ConfigError(
            f"--receipts {missing[0]}: no such file; a node keeps it in its run folder"
        )
    yield from _of_run(folder)
    known, goes_on = Known.of(keys), is_held(folder)
    found = walk(folder, known)
    if found.fault is not None or not found.links:
        yield Check("fail", "chain", found.fault or "has no whole link")
        return
    yield from _of_links(found)
    yield from _of_configuration(folder, found.links[0])
    yield from _of_tokenizer(folder / "tokenizer.json", found.links[0])
    yield from _of_checkpoints(folder, found, goes_on)
    yield _of_metrics(folder, found)
    yield from _of_summary(folder, found)
    yield from _of_releases(folder, found)
    for path in receipts:
        yield _of_receipts(path, found, known)


def _of_run(folder: Path) -> Iterator[Check]:
    """Whether a federated run is here.

    Raises:
        RunFolderError: it is none, or has no chain.
    """
    has_chain, kind = (folder / FILE).exists(), FEDERATED
    if not has_chain:
        read_run(folder)  # or there is no run at all
    try:
        kind = read_facts(folder)["kind"]
    except CorruptCheckpoint as error:
        yield Check("fail", "run", str(error))
    if kind == NODE:
        raise RunFolderError(
            f"{folder}: {ELSEWHERE}, which has the chain; verify the run there, with "
            f"--receipts {folder / 'receipts.jsonl'} of this node"
        )
    if kind != FEDERATED:
        raise RunFolderError(f"{folder}: is no federated run, and so has no chain")
    if not has_chain:
        raise RunFolderError(
            f"{folder}: has no {FILE}: it is lost, or the run is of a version that kept none; it "
            "begins when the run goes on"
        )


def link_of(folder: Path, manifest: Path) -> Link | None:
    """The link of a checkpoint, whether or not all before it are sound; None: it has none.

    Args:
        folder: of the run.
    """
    if (own := link_in(manifest)) is not None:
        return own
    saved = artifact.read(manifest)
    for line in whole_lines(folder / FILE):
        with suppress(PayloadError):
            if is_of((link := parse_link(line)).head, saved):
                return link
    return None


def signer_of(link: Link) -> str:
    """Who signs a link, for people."""
    key = link.head.key
    return f"signed with the key {fingerprint(key)}" if key else "signed by nobody"


def _of_links(found: Walk) -> Iterator[Check]:
    first, last = found.links[0].head, found.links[-1].head
    rounds = f"rounds {first.round} to {last.round}"
    yield Check("ok", "chain", f"{len(found.links):,} links, {rounds}, head {last.hash}")
    if found.pending:
        where = "in its checkpoint only, until the run goes on"
        yield Check("note", "chain", f"{name_of(last)} is {where}")
    if first.round:
        whose = first.about.get("copied_run")
        before = f"a copy of {whose}" if whose else "of a version that kept no chain"
        yield Check("note", "chain", f"it begins with round {first.round}: before, it was {before}")
    if back := [name_of(one.head) for one in found.links if one.head.kind == "rewound"]:
        yield Check(
            "note", "chain", f"the run has gone back to an earlier round: {', '.join(back)}"
        )
    yield from _of_signatures(found)


def _of_signatures(found: Walk) -> Iterator[Check]:
    """Who has signed the links, and the updates in them."""
    entries = [entry for one in found.links for entry in one.updates]
    if sums := sum(entry.is_sum for entry in entries):
        text = f"{sums:,} sums of masked updates: no node can sign what it does not see"
        yield Check("note", "nodes", text)
    if keys := [one.head.key for one in found.links if one.head.key]:
        text = f"{len(keys):,} of {len(found.links):,} links are signed, with the key"
        shown = ", ".join(sorted(map(fingerprint, set(keys))))
        yield Check("ok", "server", f"{text} {shown}")
    else:
        yield Check("note", "server", "signed by nobody: hashes alone")
    signers = [entry.node for entry in entries if entry.key]
    who = f", by {', '.join(sorted(set(signers)))}" if signers else ""
    text = f"{len(signers):,} of {len(entries):,} updates are signed{who}"
    yield Check("ok" if signers or not entries else "note", "nodes", text)


def _of_configuration(folder: Path, first: Link) -> Iterator[Check]:
    """Whether config.json is still what the first link has the digest of."""
    about = first.head.about
    if about.get("photon") != photon.__version__:
        yield Check("note", "config", f"not compared: it is of photon {about.get('photon')}")
        return
    try:
        here = digest(read_config(folder, Run).values_by_key())
    except PhotonError as error:
        yield Check("fail", "config", str(error))
        return
    yield _of_digest("config", "config.json", here, about.get("config_digest"))


def _of_tokenizer(path: Path, first: Link) -> Iterator[Check]:
    """Whether the run's tokenizer is still the one that the first link names; chains that were
    begun by older versions name none.
    """
    said = first.head.about.get("tokenizer")
    if said is None:
        return
    try:
        here = tokenizer_digest(path)
    except DataError as error:
        yield Check("fail", "tokenizer", str(error))
        return
    yield _of_digest("tokenizer", path.name, here, said)


def _of_digest(what: str, file: str, here: str, said: str | None) -> Check:
    """A file beside what the first link says of it."""
    text = f"{file} has the digest {here}"
    if here == said:
        return Check("ok", what, text)
    return Check("fail", what, f"{text}, the first link {said}")


def _of_checkpoints(folder: Path, found: Walk, goes_on: bool) -> Iterator[Check]:
    """Whether the checkpoints that are kept are those that were committed, byte for byte.

    Args:
        goes_on: the run is under way: it may commit others meanwhile, and prune these.
    """
    last = found.links[-1].head
    kept = list_checkpoints(folder / "checkpoints")
    is_behind = not kept or number_of(kept[-1]) < last.round
    if goes_on:
        kept = [path for path in kept if number_of(path) <= last.round]
    faults = [(path, _checkpoint_fault(path, found)) for path in kept]
    if goes_on:
        faults = [(path, why) for path, why in faults if path.exists()]
    bad = [Check("fail", "checkpoint", f"{path.stem}: {why}") for path, why in faults if why]
    if is_behind:
        bad.append(Check("fail", "checkpoint", f"that of {name_of(last)} is missing"))
    yield from bad or [Check("ok", "checkpoint", f"{len(faults)} kept, every byte as committed")]


def _checkpoint_fault(path: Path, found: Walk) -> str | None:
    try:
        saved = verified(path)
    except CheckpointError as error:
        return str(error)
    link, own = found.by_round.get(saved.facts["state"]["round"]), link_in(path)
    if link is None:
        return "no link is of its round"
    if not is_of(link.head, saved):
        return f"has another state than {name_of(link.head)} says"
    if own is not None and own != found.links[own.head.number]:
        return f"is of {name_of(own.head)} with the hash {own.head.hash[:12]}, not in the chain"
    return None


def _of_metrics(folder: Path, found: Walk) -> Check:
    """Whether the lines of metrics.jsonl are those that the commits held, and no others."""
    every = read_lines(folder / "metrics.jsonl")
    if strange := parse(folder / "metrics.jsonl").strange:
        return Check("fail", "metrics", f"line {strange} is of no round")
    rounds = [line.get("round") for line in every]
    if fault := _strange_round(rounds, found, folder):
        return Check("fail", "metrics", fault)
    lines, compared = {line.get("round"): line for line in every}, 0
    for number, link in found.by_round.items():
        said = link.head.record
        if said is None:
            continue
        if (line := lines.get(number)) is None:
            return Check("fail", "metrics", f"the line of round {number} is missing")
        if mark_of(line, said.keys) != said:
            return Check("fail", "metrics", f"the line of round {number} was changed since")
        compared += 1
    text = f"{compared:,} lines are as they were committed"
    if rounds and rounds[-1] == found.links[-1].head.round + 1:
        return Check("note", "metrics", f"{text}; that of round {rounds[-1]} is of no link yet")
    return Check("ok", "metrics", text)


def _strange_round(rounds: Sequence[Any], found: Walk, folder: Path) -> str | None:
    """Why these are not the rounds of a chain; before it and next behind it there may be others."""
    first, after = found.links[0].head.round, found.links[-1].head.round + 1
    if not all(isinstance(number, int) for number in rounds):
        return "a line is of no round"
    for number, times in Counter(rounds).items():
        if times > 1:
            return f"round {number} has {times} lines"
        if number > first and number != after and number not in found.by_round:
            now = rounds_in(folder)  # a run that is under way has gone on since
            if number not in now and number != max(now) + 1:
                return f"a line is of round {number}, which no link is of"
    return None


def _of_summary(folder: Path, found: Walk) -> Iterator[Check]:
    """Whether summary.json, which the end of a run writes, says what the last round's line says."""
    path, head = folder / "summary.json", found.links[-1].head
    if not path.exists():
        return
    try:
        said = dict(read_summary(folder).get("federated") or {})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        yield Check("fail", "summary", f"{path}: is damaged; metrics.jsonl has what it says")
        return
    if (tokens := said.get("tokens")) != head.tokens:
        other = next((one for one in heads_in(folder) if one.tokens == tokens), None)
        text = f"{path}: is of {name_of(other)}, not of the last" if other else None
        fault = f"{path}: has {tokens} tokens, which no link has"
        yield Check("note" if other else "fail", "summary", text or fault)
        return
    # Read behind the summary, which is written behind them.
    lines = read_lines(folder / "metrics.jsonl")
    line = next((one for one in lines if one.get("round") == head.round), {})
    for key in ("val_loss", "perplexity", "bits_per_byte"):
        there = line.get(f"val_{key.removeprefix('val_')}")
        if (here := said.get(key)) != there:
            text = f"federated.{key} is {here}, the line of round {head.round} has {there}"
            yield Check("fail", "summary", text)
            return
    yield Check("ok", "summary", f"federated.val_loss is {said.get('val_loss')}")


def _of_releases(folder: Path, found: Walk) -> Iterator[Check]:
    """Whether the ledger of a private run has all that was committed: epsilon is counted by it."""
    kept, path = list_checkpoints(folder / "checkpoints"), folder / FOLDER / NAME
    state: dict[str, Any] = {}
    with suppress(CheckpointError):  # a damaged one has been named already
        state = artifact.read(kept[-1]).facts["state"] if kept else {}
    told, asked = state.get("releases") or (), state.get("asked", 0)
    if not (told or asked or path.exists()):
        return
    if not path.parent.exists():
        yield Check("note", "privacy", f"{path.parent} is not here: {NAME} was not looked at")
        return
    rounds = merged_rounds(found.links)
    try:
        fault = lack(path, told, rounds, asked)
    except CorruptCheckpoint as error:
        yield Check("fail", "privacy", str(error))
        return
    text = f"{path}: {fault}; epsilon is more than it counts" if fault else None
    yield Check("fail" if fault else "ok", "privacy", text or f"{NAME} has all that was committed")


def _of_receipts(path: Path, found: Walk, known: Known) -> Check:
    """Whether what a node has kept is in the chain."""
    count = 0
    for number, receipt in read_receipts(path):
        fault = receipt if isinstance(receipt, str) else _receipt_fault(receipt, found, known)
        if fault is not None:
            return Check("fail", "receipts", f"{path}: line {number}: {fault}")
        count += 1
    return Check("ok" if count else "note", "receipts", f"{path}: {count:,} are of this chain")


def _receipt_fault(receipt: Receipt, found: Walk, known: Known) -> str | None:
    head, name = receipt.head, name_of(receipt.head)
    if fault := receipt.fault() or _stranger(head, found, known):
        return f"{name}: {fault}"
    if head.number >= len(found.links):
        return f"{name}: is signed by the server, and not in the chain"
    there = found.links[head.number].head.hash
    if there != head.hash:
        return f"{name}: the server has signed {head.hash[:12]}, the chain has {there[:12]}"
    return None


def _stranger(head: Head, found: Walk, known: Known) -> str | None:
    """Why a receipt, which anybody can sign with a key of his own, says nothing of this server."""
    run = found.links[0].head.run
    if head.run != run:
        return f"is of the run {head.run}, this one is {run}"
    if head.key in (known.servers or {link.head.key for link in found.links}):
        return None
    signed = f"is signed with the key {fingerprint(head.key)[:16]}"
    if known.servers:
        return f"{signed}, not with the server's: proves nothing"
    return f"{signed}, as no link is: proves nothing, unless --keys has that key"
