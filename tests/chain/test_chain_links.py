"""The links of a chain: what they say, how they are read and written, who names them."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from chains import hash_by_hand, lines_of

from photon.chain.ledger import FILE, Chain, whole_lines
from photon.chain.link import Link, digest_of_entries, parse_link
from photon.chain.verify import link_of
from photon.cli.main import run as command
from photon.container.container import map_file, ref_of
from photon.errors import PayloadError, StorageError
from photon.hub.hf_folder import export_folder
from photon.run import artifact
from photon.run.checkpoint import answer_path
from photon.run.run_folder import read_facts
from photon.run.trackers import read_lines


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
