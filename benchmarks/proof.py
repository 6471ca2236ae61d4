"""The measurements of docs/results.md, in parts that go on where they were stopped.

    bash scripts/proof.sh                      all parts, then docs/results.md
    bash scripts/proof.sh gate data            these parts, then docs/results.md
    bash scripts/proof.sh --results FOLDER     anew: logs in FOLDER, and FOLDER/results.md
    bash scripts/proof.sh --list               the parts, and what each runs
    bash scripts/proof.sh --smoke              that all of them run: tiny, nothing kept

A line tells how each part ended and the seconds that it took; what it printed is in
runs/proof/PART.txt. A part that fails does not stop the others; the exit code is then 1. A command
that has ended well is in proof.jsonl beside the logs, and is not run again; one that was stopped
goes on where its benchmark can (those that train do).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import records
from proof_parts import PARTS, Part

BENCHMARKS = Path(__file__).parent
ROOT = BENCHMARKS.parent
ENDS_SECONDS = 20.0
"""In which a command that is stopped may end what it has started."""
Run = Callable[[str, Path], int]
"""Runs a command and adds what it prints to a file; its exit code."""


class Terminated(KeyboardInterrupt):
    """By a signal of which a command has not heard, as it has of Ctrl-C."""


def terminate(*_: object) -> None:
    raise Terminated


class Outcome(NamedTuple):
    """How a part ended; nothing failed where `failed` is empty."""

    part: str
    words: str
    failed: str = ""


def apart(command: str, output: Path) -> int:
    """Run a command as a user does."""
    script, *arguments = shlex.split(command)
    with output.open("ab") as file:
        whole = [sys.executable, str(BENCHMARKS / script), *arguments]
        process = subprocess.Popen(whole, stdout=file, stderr=file, cwd=ROOT)
    try:
        return process.wait()
    except KeyboardInterrupt as stop:
        if isinstance(stop, Terminated):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_SECONDS)
        raise
    finally:
        process.kill()


def forked(command: str, output: Path) -> int:
    """Run a command in a copy of this process, which has imported what they all import."""
    child = multiprocessing.get_context("fork").Process(target=_become, args=(command, output))
    child.start()
    try:
        child.join()
    finally:
        child.kill()  # where the proof is stopped; else it has ended
    return child.exitcode or 0


def _become(command: str, output: Path) -> None:
    with output.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    script, *arguments = shlex.split(command)
    sys.argv = [str(BENCHMARKS / script), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def measured(part: Part, log: Path, outputs: Path, run: Run = apart) -> Outcome:
    """Run what the log does not have of a part."""
    done = {line["command"] for line in records.lines(log)}
    left = [command for command in part.commands if command not in done]
    if part.needs and left and importlib.util.find_spec(part.needs) is None:
        return Outcome(part.name, f"left out: needs {part.needs}, which is not installed")
    if not left:
        return Outcome(part.name, "finished before")
    begun = time.monotonic()
    for command in left:
        started, output = time.monotonic(), outputs / f"{part.name.replace(' ', '_')}.txt"
        if code := run(command, output):
            return _failed(part, command, code, output, time.monotonic() - begun)
        seconds = round(time.monotonic() - started, 1)
        records.append(log, {"part": part.name, "command": command, "seconds": seconds})
    return Outcome(part.name, f"{time.monotonic() - begun:.0f} s")


def tried_out(part: Part, outputs: Path, run: Run = forked) -> Outcome:
    """Run a part's smoke."""
    if not part.smoke:
        return Outcome(part.name, f"left out: {part.without}")
    begun, output = time.monotonic(), outputs / f"{part.name.replace(' ', '_')}.txt"
    code = run(part.smoke, output)
    if code:
        return _failed(part, part.smoke, code, output, time.monotonic() - begun)
    return Outcome(part.name, f"{time.monotonic() - begun:.1f} s")


def _failed(part: Part, command: str, code: int, output: Path, seconds: float) -> Outcome:
    said = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
    words = f"FAILED after {seconds:.0f} s: {command}: {said[-1] if said else f'exit code {code}'}"
    return Outcome(part.name, words, command)


def told(outcomes: Iterator[Outcome]) -> int:
    """Print a line of each part; the exit code."""
    failed = []
    for outcome in outcomes:
        print(f"{outcome.part:<24}{outcome.words}", flush=True)
        failed += [outcome.part] if outcome.failed else []
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measure(parts: Sequence[Part], results: Path | None) -> int:
    """Run parts for real, then write the page of what there is."""
    if results is not None:
        os.environ["PHOTON_RESULTS"] = str(results.resolve())
        records.RESULTS = results
    outputs = (results or ROOT / "runs") / "proof"
    outputs.mkdir(parents=True, exist_ok=True)
    code = told(measured(part, records.RESULTS / "proof.jsonl", outputs) for part in parts)
    target = shlex.quote(str((results or ROOT / "docs").resolve()))
    page = Part("the page", (), f"results_page.py --out {target}")
    return max(code, told(iter([tried_out(page, outputs, apart)])))


def smoke(parts: Sequence[Part]) -> int:
    """Run the parts' smokes in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"PHOTON_RESULTS": f"{folder}/results", "OMP_NUM_THREADS": "1"}
        os.chdir(folder)  # data that runs prepare comes to lie here
        import compression_arms  # noqa: F401  # what most parts import, before they are forked

        import photon.experiment.experiment  # noqa: F401

        page = Part("the page", (), f"results_page.py --out {folder}")
        return told(tried_out(part, Path(folder)) for part in [*parts, page])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="proof.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    names = [part.name for part in PARTS]
    if unknown := [name for name in arguments.parts if name not in names]:
        parser.error(f"no part is named {unknown[0]!r}; there are: {', '.join(names)}")
    parts = [part for part in PARTS if not arguments.parts or part.name in arguments.parts]
    if arguments.list:
        for part in parts:
            print(f"{part.name:<24}{'; '.join(part.commands)}")
        return 0
    signal.signal(signal.SIGTERM, terminate)
    try:
        return smoke(parts) if arguments.smoke else measure(parts, arguments.results)
    except KeyboardInterrupt:
        print("stopped; the same command goes on with what is left", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
