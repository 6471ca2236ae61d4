"""What secure aggregation costs: seconds and bytes of each phase, for each client and the server.

    python benchmarks/secure.py --clients 8 32              125 million parameters
    python benchmarks/secure.py --clients 32 --lost 8       of which 8 drop out before their numbers
    python benchmarks/secure.py --smoke                     a moment, nothing kept

A session runs whole, in one process, one client after the other: every client masks all its
numbers, into a file of its own as on a node, and the server undoes the masks of the sum. Seconds
are of a client alone on the machine's cores. The sum is compared with the plain fixed-point mean,
bit for bit. A line of each session goes to benchmarks/results/secure.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from records import RESULTS, append

from photon.secure import fixed_point, member, session
from photon.secure.fixed_point import TOKENS, Trees, plain_mean
from photon.secure.here import Here, Own
from photon.secure.terms import Terms
from photon.wire.messages import MaskNumbers, Reveal, ShareKeys, Told, pack_reply, pack_request

LOG = RESULTS / "secure.jsonl"
GRADIENT = "pseudo-gradient"
LEAF = 1 << 22
REACH = 0.01
MOST_TOKENS = 512 * 2048 * 128


class Timed(Here):
    """Clients of this process, of whom each phase is timed; masked numbers go to files."""

    def __init__(self, own: Mapping[int, Own], pool: Any, folder: Path, lost: int) -> None:
        super().__init__(own, pool)
        self.folder, self.gone = folder, set(list(own)[len(own) - lost :])
        self.seconds: dict[str, list[float]] = {}
        self.sent: dict[str, list[int]] = {"up": [], "down": []}

    def _each(self, clients: Collection[int], ask: Callable[[int], Any]) -> dict[int, Any]:
        def timed(client: int) -> Any:
            begun = time.perf_counter()
            found = ask(client)
            self.seconds.setdefault(self._phase, []).append(time.perf_counter() - begun)
            return found

        return super()._each(clients, timed)

    def agree(self, terms: Terms):
        begun = time.perf_counter()
        keys = super().agree(terms)
        self.seconds["keys"] = [(time.perf_counter() - begun) / len(keys)]
        self._count(Told(keys={0: bytes(96)}), ShareKeys(session=terms.session, keys=_joined(keys)))
        return keys

    def share(self, keys):
        self._phase = "shares"
        told = super().share(keys)
        one, session_id = told[0], self._members[0].terms.session
        self._count(Told(shares={0: one}), MaskNumbers(session=session_id, sealed={0: one}))
        return told

    def mask(self, sealed):
        self._phase = "masks"
        made = dict(super().mask({c: one for c, one in sealed.items() if c not in self.gone}))
        self._numbers = sum(its.nbytes for its in made[0].values())
        return made

    def reveal(self, clients, survivors):
        self._phase = "answer"
        told = super().reveal(clients, survivors)
        session_id, all_of_them = self._members[0].terms.session, list(survivors)
        self._count(Told(shares={0: told[0]}),
                    Reveal(session=session_id, clients=[0], survivors=all_of_them))  # fmt: skip
        return told

    def _count(self, told: Told, asked: Any) -> None:
        """Bytes of one client's messages, each on a node of its own."""
        request = pack_request(asked)
        self.sent["down"].append(request.size)
        self.sent["up"].append(pack_reply(request, "node", told, lambda data: bytes(104)).size)


def _joined(keys) -> dict[int, bytes]:
    return {client: b"".join(its) for client, its in keys.items()}


@contextmanager
def in_files(folder: Path) -> Iterator[None]:
    """Masked numbers lie in files, as a node keeps them."""
    made = iter(range(10**6))

    def memory(tree: str, count: int, kind: np.dtype) -> np.ndarray:
        return np.memmap(folder / f"{next(made)}", kind, "w+", shape=(count,))

    from photon.secure import here

    before, here._memory = here._memory, memory
    try:
        yield
    finally:
        here._memory = before


def updates(parameters: int, clients: int) -> dict[int, Own]:
    """One of each client: windows of one long row of numbers, in the memory of one."""
    draw = np.random.Generator(np.random.Philox(1))
    row = draw.standard_normal(parameters + 64 * clients, dtype=np.float32)
    row *= 1e-4
    np.clip(row, -REACH, REACH, out=row)

    def trees(client: int) -> Trees:
        own = torch.from_numpy(row[64 * client : 64 * client + parameters])
        return {GRADIENT: {f"leaf{i}": part for i, part in enumerate(own.split(LEAF))}}

    return {c: Own(trees(c), MOST_TOKENS - 1000 * c) for c in range(clients)}


def measured(parameters: int, clients: int, lost: int, scratch: Path) -> dict[str, Any]:
    own, cores = updates(parameters, clients), len(os.sched_getaffinity(0))
    threshold = -(-2 * clients // 3)
    terms = Terms(
        session="0" * 32, run="r", round=1, base_digest="", clients=tuple(own), cohort=clients,
        threshold=threshold, most_tokens=MOST_TOKENS, reaches={GRADIENT: REACH},
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(dir=scratch) as folder,
        ThreadPoolExecutor(cores) as pool,
        in_files(Path(folder)),
    ):
        parties, like = Timed(own, pool, Path(folder), lost), own[0].trees
        begun = time.perf_counter()
        total = session.summed(terms, parties, like, pool)
        spent = time.perf_counter() - begun
        unmasked = spent - sum(map(sum, parties.seconds.values())) + parties.seconds["keys"][0] * (
            1 - clients
        )  # fmt: skip
        bare = seconds_of(lambda: member.mask_numbers(
            like, own[0].tokens, terms, [], lambda t, n, k: np.empty(n, k), pool))  # fmt: skip
    require_plain(total, own, terms)
    up, down = sum(parties.sent["up"]), sum(parties.sent["down"])
    return {
        "parameters": parameters, "clients": clients, "lost": lost, "threshold": threshold,
        "cores": cores,
        "client_seconds": {name: round(mean(its), 4) for name, its in parties.seconds.items()},
        "client_seconds_unmasked": round(bare, 2), "server_seconds": round(unmasked, 2),
        "client_bytes_masked": parties._numbers, "client_bytes_messages_up": up,
        "client_bytes_messages_down": down, "equal_to_plain": True,
    }  # fmt: skip


def seconds_of(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def require_plain(total: session.Sum, own: Mapping[int, Own], terms: Terms) -> None:
    """Raises:
    AssertionError: a number differs from the mean of the same whole numbers without masks.
    """
    chosen = [own[client] for client in total.clients]
    for leaf, value in total.mean[GRADIENT].items():
        each = [{GRADIENT: {leaf: one.trees[GRADIENT][leaf]}} for one in chosen]
        plain = plain_mean(each, [one.tokens for one in chosen], terms.most_tokens, terms.reaches,
                           terms.cohort)  # fmt: skip
        assert np.array_equal(plain[GRADIENT][leaf], value.numpy()), leaf
    assert TOKENS not in total.mean
    assert fixed_point.PIECE <= LEAF


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parameters", type=int, default=125_000_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--lost", type=int, default=0)
    parser.add_argument("--scratch", type=Path, default=None)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args(arguments)
    if given.smoke:
        given.parameters, given.clients, given.lost = 10_000, [4], 1
    found = []
    for clients in given.clients:
        found.append(measured(given.parameters, clients, given.lost, given.scratch))
        print(json.dumps(found[-1]), flush=True)
        if not given.smoke:
            append(LOG, found[-1])
    return found


if __name__ == "__main__":
    main()
