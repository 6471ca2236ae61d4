"""The process that talks to Weights & Biases, so that nothing there can stop or slow training.

It follows metrics.jsonl of the run. The first line of its standard input says what to do (JSON);
after it, every line says that there is more to read, and the end of input, or `finished`, that the
run is over. Answers are JSON lines on standard output; whatever else is printed goes to standard
error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from photon.run.trackers import Position, numbers

FINISH_SECONDS = 30
"""How long W&B may take at the end of a run before it is given up."""
GIVE_UP_SECONDS = 5
IN_THE_WAY = ("WANDB_MODE", "WANDB_DISABLED", "WANDB_SERVICE")
"""Variables that the order has read already, or that would lead to another process."""


def main() -> None:
    answers = _only_for_answers()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of input ends us, once all is sent
    for name in IN_THE_WAY:
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    order = json.loads(sys.stdin.readline())
    try:
        if "init" in order:
            _follow(order, answers)
        else:
            _check_login()
        _answer(answers, {"done": True})
    except Exception as error:
        _answer(answers, {"error": " ".join(str(error).split()) or type(error).__name__})
        signal.alarm(GIVE_UP_SECONDS)  # W&B may wait for its server on our way out, too
        raise


def _only_for_answers() -> IO[str]:
    """Our standard output, which from now on is closed to everybody else."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: IO[str], value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _check_login() -> None:
    """Raises:
    Exception: W&B's own, if there are no credentials; nothing is asked of its server.
    """
    import wandb

    wandb.login(verify=False)


def _follow(order: dict[str, Any], answers: IO[str]) -> None:
    import wandb

    folder, key = Path(order["folder"]), order["key"]
    quiet = wandb.Settings(console="off", silent=True, disable_git=True, save_code=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    home = os.environ.get("WANDB_DIR") or str(folder)
    run = wandb.init(dir=home, config=config, settings=quiet, **order["init"])
    if order["init"]["mode"] == "online":
        _answer(answers, {"at": run.url})
    position = Position(folder / "wandb")
    last = max(position.read(), run.step - 1)  # what W&B has of the run is not sent again
    with open(folder / "metrics.jsonl", "rb") as file:
        line = "more\n"
        while line == "more\n":
            for record in _new_records(file):
                if record.get(key, 0) > last:
                    last = record.get(key, 0)
                    run.log(numbers(record), step=last, commit=True)
                    position.write(last)
            line = sys.stdin.readline()
    signal.alarm(FINISH_SECONDS)
    run.finish(exit_code=0 if line == "finished\n" else 1)


def _new_records(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Records that were added since the last call; one that is being written is left for later."""
    while True:
        begin = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(begin)
            return
        yield json.loads(line)


if __name__ == "__main__":
    main()
