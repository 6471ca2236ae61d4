"""The proof runs what is left of its parts, tells how each ended, and forgets no failure."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


class Runs:
    """Commands that were run, of which some fail."""

    def __init__(self, *failing: str) -> None:
        self.failing, self.seen = failing, []

    def __call__(self, command: str, output: Path) -> int:
        self.seen.append(command)
        output.write_text("a table\nwhat went wrong\n")
        return 3 if command in self.failing else 0


def test_finished_commands_are_not_run_again(bench, tmp_path):
    proof = bench("proof")
    part, log = proof.Part("some part", ("a.py 1", "b.py", "c.py")), tmp_path / "proof.jsonl"
    first, second = Runs("b.py"), Runs()
    failed = proof.measured(part, log, tmp_path, first)
    assert (first.seen, failed.failed) == (["a.py 1", "b.py"], "b.py")
    assert failed.words.endswith("s: b.py: what went wrong")
    assert proof.measured(part, log, tmp_path, second).failed == ""
    assert second.seen == ["b.py", "c.py"]
    assert proof.measured(part, log, tmp_path, Runs()).words == "finished before"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(one["part"], one["command"]) for one in lines] == [
        ("some part", "a.py 1"), ("some part", "b.py"), ("some part", "c.py"),
    ]  # fmt: skip
    assert (tmp_path / "some_part.txt").exists()


def test_a_part_that_lacks_a_module_is_left_out(bench, tmp_path):
    proof, runs = bench("proof"), Runs()
    part = proof.Part("a", ("a.py",), needs="no_such_module")
    words = "left out: needs no_such_module, which is not installed"
    assert proof.measured(part, tmp_path / "proof.jsonl", tmp_path, runs) == ("a", words, "")
    assert runs.seen == []


def test_a_failed_part_is_named_and_does_not_stop_the_others(bench, tmp_path, capsys):
    proof = bench("proof")
    parts = [proof.Part(name, (f"{name}.py",)) for name in ("a", "b", "c")]
    log, runs = tmp_path / "proof.jsonl", Runs("b.py")
    assert proof.told(proof.measured(part, log, tmp_path, runs) for part in parts) == 1
    assert runs.seen == ["a.py", "b.py", "c.py"]
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["a", "0"], ["b", "FAILED"], ["c", "0"],
    ]  # fmt: skip
    assert err == "failed: b\n"
    assert proof.told(iter([proof.Outcome("a", "1 s")])) == 0


def test_every_part_is_known_and_can_be_tried_out_or_says_why_not(bench):
    parts = bench("proof").PARTS
    assert len({part.name for part in parts}) == len(parts)
    assert len({command for part in parts for command in part.commands}) == sum(
        len(part.commands) for part in parts
    )
    for part in parts:
        assert bool(part.smoke) != bool(part.without), part.name
        for command in filter(None, (*part.commands, part.smoke)):
            assert (ROOT / "benchmarks" / command.split()[0]).exists(), command


def test_all_that_is_measured_is_shown_with_its_section(bench):
    page = bench("results_page").page(lambda log: [])
    commands = [command for part in bench("proof").PARTS for command in part.commands]
    assert not [one for one in commands if f"    python benchmarks/{one}\n" not in page]


def test_the_quickstart_itself_is_measured(bench):
    commands = bench("proof_parts").commands_of("quality")
    assert any(f'"{bench("quality_arms").QUICKSTART}"' in command for command in commands)
    assert any("--steps 3072" in command for command in commands)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("modes", ["run", "no such"]),
        ("waiting", ["run", "no such"]),
        ("memory", ["no such"]),
        ("codec", ["--smoke", "--rungs", "no such"]),
        ("aggregation", ["--smoke", "--rules", "no such"]),
        ("train_step", ["cpu", "--only", "no such"]),
    ],
)
def test_a_name_that_is_not_there_is_refused_in_one_line(bench, monkeypatch, capsys, script, words):
    monkeypatch.setattr("sys.argv", [script, *words])
    with pytest.raises(SystemExit) as ended:
        bench(script).main()
    assert ended.value.code == 2
    assert "'no such'" in capsys.readouterr().err.splitlines()[-1]


STOPPED = """
import pathlib, sys
import proof
proof.BENCHMARKS = pathlib.Path(sys.argv.pop())
proof.PARTS = (proof.Part("a", ("sleeping.py",)),)
sys.exit(proof.main())
"""
SLEEPING = """
import os, pathlib, time
pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
time.sleep(600)
"""


def test_a_proof_that_is_stopped_says_so_and_leaves_nothing_running(tmp_path):
    (tmp_path / "sleeping.py").write_text(SLEEPING)
    command = [sys.executable, "-c", STOPPED, "--results", str(tmp_path / "results"), str(tmp_path)]
    paths = os.pathsep.join([str(ROOT / "benchmarks"), *filter(None, sys.path)])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, text=True,
                               stderr=subprocess.PIPE)  # fmt: skip
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()) and process.poll() is None:
        time.sleep(0.05)
    process.terminate()
    assert process.communicate()[1].splitlines()[-1].startswith("stopped; the same command")
    assert process.returncode == 130
    line = Path(f"/proc/{pid.read_text()}/cmdline")
    give_up = time.monotonic() + 20
    while line.exists() and line.read_bytes():  # a zombie has none
        assert time.monotonic() < give_up, "its command outlives it"
        time.sleep(0.05)


def test_a_command_is_run_as_its_own_program(bench, tmp_path):
    output = tmp_path / "out.txt"
    assert bench("proof").apart("proof.py no-such-part", output) == 2
    assert "no part is named 'no-such-part'" in output.read_text()


def proof_sh(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts" / "proof.sh"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_all_parts_run_tiny_and_leave_nothing(tmp_path):
    before = {path: path.read_bytes() for path in (ROOT / "benchmarks/results").iterdir()}
    done = proof_sh("--smoke", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("the page")
    assert "FAILED" not in done.stdout
    assert list(tmp_path.iterdir()) == []
    after = {path: path.read_bytes() for path in (ROOT / "benchmarks/results").iterdir()}
    assert after == before
