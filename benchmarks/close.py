"""The close of a round against reading and writing the same bytes once.

    python benchmarks/close.py [--parameters 125M] [--clients 8] [--pairs 5]

Updates are examined as they come (`core.gate.examined`: form, norms), then `core.round.close_round`
takes their mean and makes the step of Nesterov's outer optimizer in place; both count. The plain
loop, with all cores, reads the updates once, and reads and
writes parameters and momentum once, in place. They take turns. Then updates are closed in other
orders of arrival, which must give the same bits. Bar: 1.5. The line goes to
benchmarks/results/close.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence

import torch
from network import seconds
from records import RESULTS, append
from round import count, shape

from photon import points
from photon.config import load_config
from photon.container.container import digest
from photon.core.codec import BF16, Codec, Codecs, encode
from photon.core.gate import Verdict, examined
from photon.core.messages import RoundPlan, ServerState, Update
from photon.core.outer import OuterOptimizer, nesterov
from photon.core.policy import Rules
from photon.core.round import close_round, open_round
from photon.core.tree import Tree, num_bytes, num_elements
from photon.machine.device import num_cores, return_freed_memory
from photon.model.build import build_model, parameters_of

LOG = RESULTS / "close.jsonl"
OUTER: OuterOptimizer = nesterov(lr=0.7, server_momentum=0.9)


class Round:
    """An open round whose updates have come.

    Args:
        parameters: of the model, an MPT.
        codec: of updates.
    """

    def __init__(self, parameters: int, clients: int, codec: str = "bf16") -> None:
        params = parameters_of(build_model(load_config(shape(parameters)).inner, seed=1))
        momentum = {name: value * 1e-3 for name, value in params.items()}
        self.codec: Codec = points.codec(codec)
        self.rules = Rules(quorum=clients, up=Codecs(self.codec, BF16))
        self.state = ServerState(round=0, step=0, params=params, outer={"momentum": momentum})
        steps = dict.fromkeys(range(clients), 16)
        self.plan: RoundPlan = open_round(
            self.state, run="bench", steps=steps, rules=self.rules, base_digest="d"
        )
        self.updates = [self._update(client, params) for client in range(clients)]

    def _update(self, client: int, params: Tree) -> Update:
        generator = torch.Generator().manual_seed(client)
        drawn = {
            name: torch.empty(value.shape).normal_(std=1e-3, generator=generator)
            for name, value in params.items()
        }
        gradient, _ = encode(drawn, self.codec)
        return Update(
            run="bench", round=1, client=client, gradient=gradient, moments={},
            num_tokens=1000 + client, num_steps=16, base_digest=self.plan.base_digest,
            metrics={"train_loss": 2.0},
        )  # fmt: skip

    def close(self, updates: Sequence[Update]) -> ServerState:
        """Examine the updates and close; the state goes on from where the last close left it."""
        return close_round(self.state, self.plan, updates, outer=OUTER, rules=self.rules)[0]

    def examine(self) -> list[Verdict]:
        return [examined(update, self.plan, self.state) for update in self.updates]

    def plain(self) -> None:
        """Read all and write what a close writes; the values stay."""
        for update in self.updates:
            for value in update.gradient.values():
                _read(value)
        for tree in (self.state.params, *self.state.outer.values()):
            for value in tree.values():
                for part in value.view(-1).split(1 << 20):
                    part.mul_(1.0)

    @property
    def num_bytes(self) -> int:
        """Read and written."""
        trees = (self.state.params, *self.state.outer.values())
        updates = sum(num_bytes(update.gradient) for update in self.updates)
        return updates + 2 * sum(map(num_bytes, trees))


def _read(value: torch.Tensor) -> None:
    """Every byte once; a sum of integers is the quickest that torch has for it."""
    flat = value.view(-1)
    whole = flat.numel() // 4 * 4
    flat[:whole].view(torch.int64).sum()


def digests(opened: Round) -> dict[str, str]:
    """Order of arrival -> digest of the next parameters and outer state, all from the same."""
    shuffled = random.Random(1).sample(opened.updates, len(opened.updates))
    orders = {"ascending": opened.updates, "descending": opened.updates[::-1], "shuffled": shuffled}
    trees = (opened.state.params, opened.state.outer["momentum"])
    before = [flattened(tree) for tree in trees]
    found = {}
    for name, updates in orders.items():
        for tree, values in zip(trees, before, strict=True):
            restore(tree, values)
        state = opened.close(updates)
        found[name] = digest({**state.params, "momentum/": flattened(state.outer["momentum"])})
    return found


def restore(tree: Tree, values: torch.Tensor) -> None:
    """Write the values that `flattened` gave back into a tree."""
    parts = values.split([value.numel() for value in tree.values()])
    for value, part in zip(tree.values(), parts, strict=True):
        value.view(-1).copy_(part)


def flattened(tree: Tree) -> torch.Tensor:
    return torch.cat([value.reshape(-1) for value in tree.values()])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--parameters", type=count, default=count("125M"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is kept")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.parameters, arguments.clients, arguments.pairs = 60_000, 3, 1
    torch.set_num_threads(num_cores())
    return_freed_memory()
    opened = Round(arguments.parameters, arguments.clients)
    turns = []
    for _ in range(arguments.pairs):
        ours = seconds(lambda: opened.close(opened.updates))
        turns.append((ours, seconds(opened.plain), seconds(opened.examine)))
    ratios = [ours / plain for ours, plain, _ in turns]
    size = num_elements(opened.state.params)
    ours, plain, judging = (statistics.median(times) for times in zip(*turns, strict=True))
    print(f"close of {arguments.clients} x {size / 1e6:.1f}M bf16: {ours:.2f} s")
    print(f"of which {judging:.2f} s go while other clients train: updates are examined on arrival")
    print(f"{opened.num_bytes / 1e9:.2f} GB read and written once: {plain:.2f} s")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    found = digests(opened)
    print(json.dumps(found))
    if len(set(found.values())) > 1:
        raise SystemExit("the order of arrival changes the bits")
    if not arguments.smoke:
        append(LOG, {
            "parameters": arguments.parameters, "clients": arguments.clients,
            "pairs": arguments.pairs, "seconds": ours, "examine_seconds": judging,
            "plain_seconds": plain, "ratio": statistics.median(ratios), "ratio_min": min(ratios),
            "ratio_max": max(ratios), "same_bits": True,
        })  # fmt: skip


if __name__ == "__main__":
    main()
