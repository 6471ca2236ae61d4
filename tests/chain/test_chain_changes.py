"""No change of a run goes unnamed: its chain, checkpoints, metrics, summary and configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chains import faults, hash_by_hand, lines_of, rewrite, write

from photon.chain.ledger import FILE, whole_lines
from photon.chain.verify import verify_run
from photon.cli.main import run as command
from photon.run import artifact
from photon.run.checkpoint import list_checkpoints
from photon.run.trackers import read_lines


def without(number: int) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        lines = lines_of(folder)
        write(folder, lines[:number] + lines[number + 1 :])

    return tamper


def swapped(folder: Path) -> None:
    lines = lines_of(folder)
    write(folder, [lines[0], lines[2], lines[1], *lines[3:]])


def edited(number: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        lines = lines_of(folder)
        change(lines[number])
        write(folder, lines)

    return tamper


def garbage(folder: Path) -> None:
    write(folder, [*whole_lines(folder / FILE)[:2], b"\xff\x00{", *whole_lines(folder / FILE)[3:]])


def cut_short(folder: Path) -> None:
    """All but the first three lines, and a part of one."""
    lines = whole_lines(folder / FILE)
    (folder / FILE).write_bytes(b"\n".join([*lines[:2], lines[2][:100]]))


def other_parameters(folder: Path) -> None:
    path = artifact.read(folder / "checkpoints" / "round_000004.json").file("base")[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def another_checkpoint(folder: Path) -> None:
    """The parameters of round 3 as those of round 4."""
    three, four = list_checkpoints(folder / "checkpoints")
    rewrite(four, three, dict(artifact.read(four).facts))


def manifest_facts(folder: Path) -> None:
    """A client's last accepted round, which is no tensor."""
    path = list_checkpoints(folder / "checkpoints")[-1]
    facts = dict(artifact.read(path).facts)
    rewrite(path, path, {**facts, "state": {**facts["state"], "last_accepted": {"0": 1}}})


def metrics(folder: Path) -> None:
    lines = read_lines(folder / "metrics.jsonl")
    lines[1]["train_loss"] -= 0.5
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def no_line(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2] + lines[3:]))


def one_more_line(number: Any, at: int | None = None) -> Callable[[Path], None]:
    """A line of a round with a better loss, in the middle or at the end."""

    def tamper(folder: Path) -> None:
        lines = read_lines(folder / "metrics.jsonl")
        lines.insert(
            len(lines) if at is None else at, lines[-1] | {"round": number, "val_loss": 1.0}
        )
        (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))

    return tamper


def with_tokens(folder: Path, tokens: int) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["federated"]["tokens"] = tokens
    (folder / "summary.json").write_text(json.dumps(summary))


def better_summary(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["federated"]["val_loss"] -= 0.5
    (folder / "summary.json").write_text(json.dumps(summary))


def better_perplexity(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    summary["federated"]["perplexity"] = 1.0
    (folder / "summary.json").write_text(json.dumps(summary))


def line_between(text: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        first, *others = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join([first, text + "\n", *others]))

    return tamper


def older_in_place_of_newest(folder: Path) -> None:
    """It is a whole checkpoint of this run, and was the newest once."""
    kept = folder / "checkpoints"
    (kept / "round_000004.json").write_bytes((kept / "round_000003.json").read_bytes())


def configuration(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    config["seed"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def tokenizer(folder: Path) -> None:
    """With two ids swapped: every sample reads otherwise, and nothing else shows it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    ids = content["model"]["vocab"]
    (first, one), (second, other) = list(ids.items())[-2:]
    ids |= {first: other, second: one}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def more_tokens(link: dict[str, Any]) -> None:
    link["updates"][0]["tokens"] += 1


def unnoticed_tokens(link: dict[str, Any]) -> None:
    """With all digests of the link itself made anew."""
    link["updates"][0]["tokens"] += 1
    hashes = [hash_by_hand("photon entry 1", entry) for entry in link["updates"]]
    link["head"]["updates"] = hash_by_hand("photon entries 1", hashes)
    link["head"]["tokens"] += 1


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (edited(2, lambda link: link["head"].update(step=99)), "chain: link 2 (round 2): has the"),
        (edited(2, more_tokens), "chain: link 2 (round 2): its updates are not those"),
        (edited(2, unnoticed_tokens), "chain: link 2 (round 2): has the hash"),
        (edited(3, lambda link: link["refused"].update({"1": "no"})), "link 3 (round 3): its ref"),
        (edited(2, lambda link: link["head"].update(tokens=1)), "link 2 (round 2): has 1 tokens"),
        (edited(1, lambda link: link.update(signature="ab" * 70)), "link 1 (round 1): has a signa"),
        (edited(2, lambda link: link["head"].update(run="x")), "link 2 (round 2): is of the run x"),
        (edited(1, lambda link: link.update(more=1)), "link 1: link: more: Extra inputs"),
        (edited(1, lambda link: link["head"].update(round="1")), "link 1: link: head.round"),
        (without(2), "chain: link 2: is missing, link 3 (round 3) stands in its place"),
        (without(0), "chain: link 0: is missing, link 1 (round 1) stands"),
        (swapped, "chain: link 1: is missing, link 2 (round 2) stands in its place"),
        (garbage, "chain: link 2: link: unreadable"),
        (cut_short, "chain: link 2: is missing, link 3 (round 3) stands in its place"),
        (other_parameters, "round_000004-base"),
        (another_checkpoint, "round_000004: has another state than link 4 (round 4) says"),
        (manifest_facts, "round_000004: has another state than link 4 (round 4) says"),
        (metrics, "metrics: the line of round 2 was changed since"),
        (no_line, "metrics: the line of round 3 is missing"),
        (one_more_line(2, at=1), "metrics: round 2 has 2 lines"),
        (one_more_line(9), "metrics: a line is of round 9, which no link is of"),
        (one_more_line("9"), "metrics: a line is of no round"),
        (one_more_line([9]), "metrics: a line is of no round"),
        (line_between("garbage"), "metrics: line 2 is of no round"),
        (line_between('[{"round": 3}]'), "metrics: line 2 is of no round"),
        (better_summary, "federated.val_loss is"),
        (better_perplexity, "federated.perplexity is 1.0, the line of round 4 has"),
        (lambda run: with_tokens(run, 1), "has 1 tokens, which no link has"),
        (lambda run: (run / "summary.json").write_text('{"federated": "x"}'), "is damaged"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json: is damaged"),
        (configuration, "config: config.json has the digest"),
        (lambda run: (run / "config.json").write_text("{"), "config: "),
        (lambda run: (run / "run.json").write_text("{"), "unreadable run.json"),
        (lambda run: (run / "run.json").write_text("[]"), "unreadable run.json"),
        (lambda run: (run / "run.json").write_text("{}"), "unreadable run.json"),
        (older_in_place_of_newest, "round_000004.json: holds round 3: it is a copy of another"),
        (tokenizer, "tokenizer: tokenizer.json has the digest"),
        (lambda run: (run / "tokenizer.json").unlink(), "tokenizer.json: cannot read"),
        (lambda run: artifact.remove(run / "checkpoints", "round_000004"), "that of link 4 (rou"),
    ],
)  # fmt: skip
def test_every_change_is_named(run: Path, tamper: Callable[[Path], None], message: str):
    tamper(run)
    (found, *others) = faults(run)
    assert message in found
    assert not others
    assert command(["verify", str(run)]) == 2


def test_a_line_of_the_round_that_is_under_way_is_told(run: Path):
    """It is there before its link; and a summary that is older than the last link is of another."""
    one_more_line(5)(run)
    first = next(line for line in read_lines(run / "metrics.jsonl") if line["round"] == 1)
    with_tokens(run, first["tokens"])
    found = {one.what: (one.verdict, one.text) for one in verify_run(run)}
    assert found["metrics"][0] == "note"
    assert found["metrics"][1].endswith("that of round 5 is of no link yet")
    assert found["summary"][0] == "note"
    assert found["summary"][1].endswith("is of link 1 (round 1), not of the last")
    assert not faults(run)


def test_the_last_link_is_held_by_its_checkpoint(run: Path):
    """A last line that is changed with everything in it has no link behind it that would tell."""
    edited(4, unnoticed_tokens)(run)
    found, summary = faults(run)
    assert "checkpoint: round_000004: is of link 4 (round 4) with the hash" in found
    assert summary.endswith("tokens, which no link has")
