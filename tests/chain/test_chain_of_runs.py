"""The chain of runs that go on, go back, are copied or give a round up: sound, and it says so."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from chains import faults, lines_of, rewrite, write

import photon
from photon.chain.ledger import FILE, whole_lines
from photon.chain.link import parse_link
from photon.chain.verify import verify_run
from photon.core.messages import Instruction
from photon.errors import PayloadError, PhotonWarning, RunFolderError
from photon.experiment import experiment
from photon.node.client_host import ClientHost
from photon.run import artifact
from photon.run.checkpoint import list_checkpoints
from photon.run.run_folder import RunFolder


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
