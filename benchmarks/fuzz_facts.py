"""Fuzz what a node says: each mutant of an answer is a client's failure, a refusal, or harmless.

    python benchmarks/fuzz_facts.py                    a hundred thousand mutants
    python benchmarks/fuzz_facts.py --count 1000000 --seed 7

What an answer says is parsed and judged. One in a hundred goes the whole way of a real one: from
the message, through its payload, to the round that is closed with it and two honest updates.
Whatever the mutant says, the round closes, its record is JSON without infinities, no reason is long
or holds a control character, and the mutant's weight is at most that of what it was asked for.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import wait
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fuzzing
import torch

from photon.container.container import write_container
from photon.core.gate import examined
from photon.core.messages import (
    Bounds,
    MomentBound,
    RoundPlan,
    RoundReport,
    ServerState,
    Update,
)
from photon.core.outer import sgd
from photon.core.parts import parts_of
from photon.core.round import Rules, close_round, open_round
from photon.core.text import cleaned
from photon.core.tree import Tree
from photon.errors import PayloadError
from photon.run.base import Base, base_ref, received_of
from photon.run.checkpoint import save_server_state, sent_file
from photon.server.depot import Depot
from photon.server.errand import Errand, Outcome
from photon.wire.buffers import Buffers
from photon.wire.facts import InstructionFacts, update_of
from photon.wire.inline import InlineServer
from photon.wire.messages import Train, pack_reply

PER_STEP, STEPS = 64, 5
WHOLE_WAY = 100
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 6, 64, 320, 321, 10**15, 2**53 + 1, 10**400, -(10**400), 0.5,
    1e308, -1e308, 5e-324, "", "100", "exp_avg", "w", "x" * 10_000, "\x1b[2J\n\u202e", [], {}, [1],
    ["x"], [[]], [1, 1], [0, 1], {"train_loss": 1}, {"train_loss": 1e308}, {"": 0},
    {"a": {"a": []}}, {str(i): i for i in range(200)},
]  # fmt: skip


def fuzz(count: int, seed: int, whole_way: int = WHOLE_WAY) -> Counter[str]:
    """Outcomes by kind; an assertion fails where a mutant does harm.

    Args:
        whole_way: mutants, of which one goes all the way.
    """
    rng, outcomes = random.Random(seed), Counter[str]()
    state, plan = a_round()
    with tempfile.TemporaryDirectory() as folder:
        depot = Depot(Path(folder) / "depot", InlineServer())
        saved = save_server_state(Path(folder) / "checkpoints", state)
        received = received_of(state)
        depot.publish(plan, Base.at(sent_file(saved)[0], received, base_ref(received)))
        tensors, facts_before = parts_of(an_update(plan, 0))
        for number in range(count):
            facts = facts_before
            if number % whole_way:
                outcomes[parsed(state, plan, tensors, mutant(facts, rng))] += 1
                continue
            reply = {"updates": {0: {}}, "failed": {}}
            in_reply = rng.random() < 0.2
            if not in_reply:
                facts = mutant(facts, rng)
            ticket = as_ticket(Path(folder) / "p", tensors, facts)
            reply["updates"][0] = ticket
            outcome = answered(plan, depot, mutant(reply, rng) if in_reply else reply)
            outcomes[judge(state, plan, outcome)] += 1
    return outcomes


def parsed(state: ServerState, plan: RoundPlan, tensors: Tree, facts: Mapping[str, Any]) -> str:
    """What is made of an update's facts before it is merged; fails where that is harm."""
    try:
        update = update_of(tensors, facts)
    except PayloadError as error:
        assert_harmless(cleaned(str(error)))
        return "failed"
    if reason := examined(update, plan, state).reason:
        assert_harmless(cleaned(reason))
        return "refused"
    assert update.num_tokens <= PER_STEP * STEPS
    json.dumps(dict(update.metrics), allow_nan=False)
    return "accepted"


def a_round() -> tuple[ServerState, RoundPlan]:
    """A state and its open round of three clients whose moments are averaged."""
    params = {"w": torch.randn(3, 4), "b": torch.randn(3)}
    state = ServerState(round=0, step=0, params=params, outer={})
    bounds = Bounds(
        tokens_per_step=PER_STEP,
        norm=10.0,
        moments={"exp_avg_sq": MomentBound(names=("w", "b"), norm=10.0, is_square=True)},
    )
    steps = dict.fromkeys(range(3), STEPS)
    return state, open_round(
        state, run="r", steps=steps, rules=Rules(quorum=1), base_digest="d", bounds=bounds
    )


def an_update(plan: RoundPlan, client: int) -> Update:
    gradient = {"w": torch.full((3, 4), 0.1), "b": torch.full((3,), 0.1)}
    return Update(
        run="r", round=1, client=client, gradient=gradient, moments={"exp_avg_sq": gradient},
        num_tokens=PER_STEP * STEPS, num_steps=STEPS, base_digest=plan.base_digest,
        metrics={"train_loss": 2.0, "tokens_per_second": 100.0},
    )  # fmt: skip


def mutant(value: Any, rng: random.Random) -> Any:
    """A tree of lists and dicts with one or two things in it replaced, left out or added."""
    value = json.loads(json.dumps(value)) if not has_buffers(value) else copied(value)
    for _ in range(rng.randrange(1, 3)):
        places = list(walk(value))
        where, key = rng.choice(places)
        match rng.randrange(4):
            case 0 if isinstance(where, dict):
                where[rng.choice(["more", "", key])] = deepcopy(rng.choice(VALUES))
            case 1:
                del where[key]
            case _:
                where[key] = deepcopy(rng.choice(VALUES))
        if not list(walk(value)):
            break
    return value


def walk(value: Any):
    """(container, key) of everything in a tree."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from walk(value[key])


def has_buffers(value: Any) -> bool:
    return any(isinstance(where[key], Buffers) for where, key in walk(value))


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return value


def as_ticket(path: Path, tensors: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
    """An inline ticket; facts that do not travel at all come as none."""
    try:
        ref = write_container(path, tensors, facts)
    except PayloadError:
        ref = write_container(path, tensors, {})
    return {"via": "inline", **ref.to_json(), "data": Buffers(path.read_bytes())}


class Said(dict):
    """A reply body as it is, without the checks of the node's side."""

    def model_dump(self) -> dict[str, Any]:
        return dict(self)


def answered(plan: RoundPlan, depot: Depot, reply: dict[str, Any]) -> Outcome:
    """What the server makes of a node's reply to its instruction."""
    way = depot.way(holds="")
    train = Train(
        run="r", round=1, config={}, config_digest="", data={}, base=way.base,
        instructions=[InstructionFacts(**asdict(plan.instructions[0]))],
    )  # fmt: skip
    conversation = Errand("n", train, depot, way, None).converse()
    request = next(conversation)
    kind: Any = type("Trained", (Said,), {})
    try:
        message = pack_reply(request, "n", kind(reply), None)
    except (OverflowError, TypeError, ValueError):  # msgpack has no such numbers
        message = pack_reply(request, "n", kind({}), None)
    try:
        while True:
            request = conversation.send(message)
            if isinstance(request, Buffers):
                message = pack_reply(request, "n", kind({}), None)
            else:
                wait([request])
    except StopIteration as done:
        return done.value


def judge(state: ServerState, plan: RoundPlan, outcome: Outcome) -> str:
    """What became of a mutant; fails where it did harm."""
    for reason in outcome.failed.values():
        assert_harmless(reason)
        assert "fault of the server" not in reason, reason
    honest = [replace(an_update(plan, c), client=c) for c in (1, 2)]
    updates = [*outcome.updates.values(), *honest]
    own = replace(state, params={name: value.clone() for name, value in state.params.items()})
    after, report = close_round(own, plan, updates, outer=sgd(lr=1.0), rules=Rules(quorum=2))
    assert {1, 2} <= set(report.accepted)
    assert report.num_tokens <= len(report.accepted) * PER_STEP * STEPS
    assert report.num_steps == after.step == STEPS
    json.dumps(numbers(report), allow_nan=False)
    for reason in report.refused.values():
        assert_harmless(reason)
    if outcome.failed:
        return "failed"
    return "refused" if report.refused else "accepted"


def numbers(report: RoundReport) -> list[Any]:
    return [report.train_loss, report.gradient_norm, dict(report.client_norms),
            {c: dict(m) for c, m in report.client_metrics.items()}]  # fmt: skip


def assert_harmless(reason: str) -> None:
    assert len(reason) <= 500, len(reason)
    assert reason.isprintable(), repr(reason)


if __name__ == "__main__":
    fuzzing.run(__doc__, 100_000, fuzz)
