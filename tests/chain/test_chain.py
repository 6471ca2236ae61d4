"""The chain of a run on this machine: what it says, and that no change of it goes unnamed."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

import photon
from photon.chain.ledger import FILE, Chain, whole_lines
from photon.chain.link import Link, digest_of_entries, parse_link
from photon.chain.verify import link_of, verify_run
from photon.cli.main import run as command
from photon.container.container import map_file, ref_of
from photon.core.messages import Instruction
from photon.errors import PayloadError, PhotonWarning, RunFolderError, StorageError
from photon.experiment import experiment
from photon.hub.hf_folder import export_folder
from photon.node.client_host import ClientHost
from photon.run import artifact
from photon.run.checkpoint import answer_path, list_checkpoints
from photon.run.run_folder import RunFolder, read_facts
from photon.run.trackers import read_lines


@pytest.fixture(scope="module")
def made(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four rounds of which the last two are kept."""
    saving = tmp_path_factory.mktemp("chain")
    kept = "llm_config.save_num_checkpoints_to_keep=2"
    paths = [f"dataset.train.root_local={data_root}", f"photon.saving_path={saving}"]
    photon.train(["recipe=smoke", "run_uuid=made", "fl.n_rounds=4", kept, *paths])
    return saving / "made"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "made"))


def faults(folder: Path) -> list[str]:
    return [f"{one.what}: {one.text}" for one in verify_run(folder) if one.verdict == "fail"]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(folder / FILE)]


def write(folder: Path, lines: list[Any]) -> None:
    """Lines of a chain as whoever writes them by hand would, in their one form."""
    text = [line if isinstance(line, bytes) else compact(line) for line in lines]
    (folder / FILE).write_bytes(b"".join(line + b"\n" for line in text))


def compact(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hash_by_hand(domain: str, value: Any) -> str:
    return blake3(domain.encode() + b"\0" + compact(value)).hexdigest()


def test_a_link_says_what_lies_on_the_disk(made: Path):
    """By hand: the hash of each head, the digests of bytes that are read here."""
    links = lines_of(made)
    heads = [link["head"] for link in links]
    assert [head["round"] for head in heads] == [0, 1, 2, 3, 4]
    assert [head["number"] for head in heads] == [0, 1, 2, 3, 4]
    assert heads[0]["previous"] == ""
    for before, head in itertools.pairwise(heads):
        assert head["previous"] == hash_by_hand("photon link 1", before)
    last = links[-1]
    hashes = [hash_by_hand("photon entry 1", entry) for entry in last["updates"]]
    assert last["head"]["updates"] == hash_by_hand("photon entries 1", hashes)
    for entry in last["updates"]:
        sent = artifact.read(answer_path(made / "clients", entry["client"], 4)).file("update")[0]
        found = ref_of(map_file(sent))
        assert (entry["digest"], entry["size"]) == (found.digest, found.size)
        assert entry["base"] == heads[-2]["state"]["base"]
    saved = artifact.read(made / "checkpoints" / "round_000004.json")
    for part in saved.files:
        assert last["head"]["state"][part] == ref_of(map_file(saved.file(part)[0])).digest
    assert last["head"]["tokens"] == read_lines(made / "metrics.jsonl")[-1]["tokens"]
    assert heads[0]["about"]["config_digest"] == read_facts(made)["config_digest"]


def test_an_untouched_run_is_sound(made: Path, capsys):
    assert command(["verify", str(made)]) == 0
    shown = capsys.readouterr().out
    assert "5 links, rounds 0 to 4" in shown
    assert "signed by nobody" in shown
    assert "4 lines are as they were committed" in shown
    assert command(["verify", "--json", str(made)]) == 0
    assert {one["verdict"] for one in json.loads(capsys.readouterr().out)} == {"ok", "note"}


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


def rewrite(path: Path, source: Path, facts: dict[str, Any]) -> None:
    """A checkpoint that is sound in itself, of another one's tensors and of these facts."""
    saved = artifact.read(source)
    loaded = {part: saved.load(part) for part in saved.files}
    parts = {p: ({n: v.clone() for n, v in its.items()}, f) for p, (its, f) in loaded.items()}
    artifact.save(path.parent, path.stem, parts, facts)


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


@pytest.mark.parametrize(
    "name", ["walk.list_checkpoints", "verify.list_checkpoints", "verify.verified"]
)
def test_a_run_that_goes_on_while_it_is_looked_at_is_sound(
    made: Path, run: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Round 3 is committed, its link not yet written; then comes round 4, and 3 is pruned."""
    write(run, lines_of(made)[:3])
    text = (made / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(text[:3]))
    (run / "summary.json").unlink()
    artifact.remove(run / "checkpoints", "round_000004")
    module, _, function = name.partition(".")
    real = getattr(import_module(f"photon.chain.{module}"), function)

    def late(path: Path) -> Any:
        if not (run / "checkpoints" / "round_000004.json").exists():
            shutil.copytree(made, run, dirs_exist_ok=True)
            artifact.remove(run / "checkpoints", "round_000003")
        return real(path)

    monkeypatch.setattr(f"photon.chain.{name}", late)
    with RunFolder.open(run):
        assert not faults(run)
    assert (run / "checkpoints" / "round_000004.json").exists()


def test_the_last_link_is_held_by_its_checkpoint(run: Path):
    """A last line that is changed with everything in it has no link behind it that would tell."""
    edited(4, unnoticed_tokens)(run)
    found, summary = faults(run)
    assert "checkpoint: round_000004: is of link 4 (round 4) with the hash" in found
    assert summary.endswith("tokens, which no link has")


def resume(folder: Path, *overrides: str) -> None:
    experiment.resume(folder, overrides)


def test_a_resumed_run_goes_on_with_its_chain(run: Path):
    before = (run / FILE).read_bytes()
    resume(run, "fl.n_rounds=5")
    assert (run / FILE).read_bytes().startswith(before)
    assert len(lines_of(run)) == 6
    assert not faults(run)


@pytest.mark.parametrize("lost", [1, 2, 7000], ids=["end of line", "torn", "whole line"])
def test_what_a_crash_leaves_out_comes_from_the_checkpoint(run: Path, lost: int):
    """A process that dies between a commit and its line, or within that line."""
    whole = (run / FILE).read_bytes()
    last = len(whole_lines(run / FILE)[-1]) + 1
    (run / FILE).write_bytes(whole[: -min(lost, last)])
    found = list(verify_run(run))
    note = next(one.text for one in found if one.verdict == "note")
    assert note.startswith("link 4 (round 4) is in its checkpoint only")
    assert not faults(run)
    resume(run, "fl.n_rounds=5")
    assert (run / FILE).read_bytes().startswith(whole)
    assert not faults(run)


def test_a_run_that_goes_back_says_so(run: Path):
    resume(run, "photon.resume_round=3")
    kinds = [(link["head"]["kind"], link["head"]["round"]) for link in lines_of(run)]
    assert kinds[-3:] == [("round", 4), ("rewound", 3), ("round", 4)]
    assert not faults(run)
    texts = [one.text for one in verify_run(run) if one.verdict == "note"]
    assert "the run has gone back to an earlier round: link 5 (round 3)" in texts
    assert artifact.read(list_checkpoints(run / "checkpoints")[-1]).facts["link"]


def test_a_run_begun_by_an_earlier_version(run: Path):
    """Its chain begins where it goes on; until then there is none."""
    (run / FILE).unlink()
    for path in list_checkpoints(run / "checkpoints"):
        facts = artifact.read(path).facts
        rewrite(path, path, {key: value for key, value in facts.items() if key != "link"})
    with pytest.raises(
        RunFolderError, match=r"has no chain\.jsonl: it is lost, or the run is of a"
    ):
        faults(run)
    resume(run, "fl.n_rounds=5")
    assert [link["head"]["round"] for link in lines_of(run)] == [4, 5]
    assert not faults(run)
    notes = [one.text for one in verify_run(run) if one.verdict == "note"]
    assert notes[0] == "it begins with round 4: before, it was of a version that kept no chain"


def test_a_lost_chain_is_not_made_up(run: Path):
    """The links of the checkpoints that are kept stay; that the others are gone is seen."""
    (run / FILE).unlink()
    resume(run, "fl.n_rounds=5")
    assert [link["head"]["number"] for link in lines_of(run)] == [3, 4, 5]
    assert faults(run) == ["chain: link 0: is missing, link 3 (round 3) stands in its place"]


def test_a_copy_names_the_link_that_it_begins_with(made: Path, smoke, tmp_path: Path):
    config = smoke("run_uuid=copy", f"photon.restore_run_uuid={made}", "fl.n_rounds=5")
    folder = Path(photon.train(config).folder)
    first = lines_of(folder)[0]["head"]
    assert first["about"]["copied_link"] == parse_link(whole_lines(made / FILE)[-1]).head.hash
    assert (first["round"], first["run"], first["kind"]) == (4, "copy", "begin")
    assert not faults(folder)


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        (
            ["fl.random_layers=[norm.weight]", "fl.random_init_freq=3"],
            ["round", "redrawn", "round"],
        ),
        (["fl.mode=async", "fl.buffer=1"], ["round"] * 4),
    ],
    ids=["redrawn", "asynchronous"],
)
def test_other_ways_of_running_have_a_sound_chain(smoke, overrides: list[str], kinds: list[str]):
    folder = Path(photon.train(smoke("run_uuid=r", *overrides)).folder)
    assert [link["head"]["kind"] for link in lines_of(folder)] == ["begin", *kinds]
    assert not faults(folder)


def test_a_round_that_is_given_up_has_a_link(smoke, monkeypatch: pytest.MonkeyPatch):
    train = ClientHost.train

    def failing(self: ClientHost, instruction: Instruction, *arguments: Any) -> Any:
        if (instruction.round, instruction.client) == (1, 1):
            raise PayloadError("not today")
        return train(self, instruction, *arguments)

    monkeypatch.setattr(ClientHost, "train", failing)
    with pytest.warns(PhotonWarning):
        folder = Path(photon.train(smoke("run_uuid=r", "fl.failed_rounds=skip")).folder)
    assert [link["head"]["kind"] for link in lines_of(folder)] == ["begin", "skipped", "round"]
    assert not faults(folder)


def test_a_mutant_of_a_line_is_refused_and_ends_nothing(made: Path):
    """Whatever bytes come: a link, the same in its one form, or a payload's error."""
    draw = random.Random(5)
    line = whole_lines(made / FILE)[1]
    for _ in range(3000):
        data = bytearray(line)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            match draw.randrange(3):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randint(1, 30)]
                case _:
                    data[at:at] = bytes(draw.choices(b'{}[]",:0e-n\\u\xff', k=draw.randint(1, 6)))
        try:
            found = parse_link(bytes(data))
        except PayloadError:
            continue
        assert isinstance(found, Link)
        assert found.line() == bytes(data)


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"null", b"1" * 5000, b"[" * 100_000, b'{"head":{}}', b'"\\ud800"']
)
def test_what_is_no_link_is_refused(line: bytes):
    with pytest.raises(PayloadError, match="link: "):
        parse_link(line)


def test_the_export_names_the_link(made: Path, tmp_path: Path):
    export_folder(made, tmp_path / "hf")
    link = link_of(made, made / "checkpoints" / "round_000004.json")
    assert link is not None
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"| history | link 4 of round 4, `{link.head.hash}`, signed by nobody |" in card
    export_folder(made / "checkpoints" / "round_000003.json", tmp_path / "three")
    assert "link 3 of round 3" in (tmp_path / "three" / "README.md").read_text()


def test_a_chain_that_cannot_be_written_does_not_move(run: Path):
    chain = Chain.opened(run, "made", None, 0)
    last = chain.last
    (run / FILE).unlink()
    (run / FILE).mkdir()
    assert last is not None
    with pytest.raises(StorageError, match=r"chain\.jsonl: cannot write"):
        chain.append(last)
    assert chain.last is last


def test_entries_have_an_order():
    assert digest_of_entries(["a" * 64, "b" * 64]) != digest_of_entries(["b" * 64, "a" * 64])
