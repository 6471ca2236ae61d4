"""Decides whether what a run has on disk is a history in which every update counts exactly once.

It looks at what server and nodes have written, not at how the run went: committed rounds, the
server's last state, each client's state on its node, and the run's chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from photon.chain.verify import verify_run
from photon.core.messages import ServerState
from photon.run import checkpoint
from photon.run.trackers import read_lines


def faults(
    records: Iterable[Mapping[str, Any]], state: ServerState, rows_per_round: int, rows: int
) -> list[str]:
    """What is wrong with the rounds and the server's state; nothing if all is well.

    Args:
        rows_per_round: that one client trains on.
        rows: tokens of a row.
    """
    found: list[str] = []
    tokens, accepted_last, step = 0, {}, 0
    for number, record in enumerate(records, start=1):
        if record["round"] != number:
            found.append(f"line {number} is of round {record['round']}")
        accepted = record["accepted"]
        if sorted(set(accepted)) != accepted:
            found.append(f"round {number} counts a client twice, or out of order: {accepted}")
        tokens += len(accepted) * rows_per_round * rows
        if record["tokens"] != tokens:
            found.append(f"round {number} has {record['tokens']} tokens, its updates {tokens}")
        if record["step"] < step:
            found.append(f"round {number} goes back to step {record['step']}")
        step = record["step"]
        late = {int(client): by for client, by in record.get("late", {}).items()}
        made = {client: number - late.get(client, 0) for client in accepted}
        for client in [c for c, trained in made.items() if trained <= accepted_last.get(c, 0)]:
            found.append(f"round {number} counts round {made[client]} of client {client} again")
        accepted_last |= made
    if (state.num_tokens, state.step) != (tokens, step):
        found.append(f"the state has {state.num_tokens} tokens, the rounds {tokens}")
    if dict(state.last_accepted) != accepted_last:
        found.append(f"the state was told {dict(state.last_accepted)}, the rounds {accepted_last}")
    return found


def client_faults(
    state: ServerState, homes: Mapping[int, Path], rounds: Mapping[int, int], rows_per_round: int
) -> list[str]:
    """Clients whose place in their data is not that of their accepted rounds.

    Args:
        homes: client -> folder of its states.
        rounds: client -> rounds that it was accepted in.
    """
    found = []
    for client, home in homes.items():
        path = home / f"round_{state.last_accepted.get(client, 0):06d}.json"
        stream = checkpoint.load_client_state(path).stream
        expected = rounds[client] * rows_per_round
        if stream.epoch == 0 and stream.cursor != expected:
            found.append(f"client {client} has read {stream.cursor} rows, not {expected}")
    return found


def faults_of_run(folder: Path, homes: Mapping[int, Path], rows_per_round: int, rows: int):
    """All faults of a run and its clients, from their folders."""
    records = read_lines(folder / "metrics.jsonl")
    state = checkpoint.load_server_state(checkpoint.newest_checkpoint(folder / "checkpoints"))
    rounds = {c: sum(c in record["accepted"] for record in records) for c in homes}
    return [
        *faults(records, state, rows_per_round, rows),
        *client_faults(state, homes, rounds, rows_per_round),
        *(f"{one.what}: {one.text}" for one in verify_run(folder) if one.verdict == "fail"),
    ]
