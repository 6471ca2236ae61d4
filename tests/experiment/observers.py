"""What training and a round make of a configuration, felt where a run feels it."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

import photon
from photon.config import Config
from photon.config.resolve import Run, resolve
from photon.container.container import digest
from photon.core.codec import encode
from photon.core.messages import (
    ClientState,
    Instruction,
    RoundPlan,
    ServerState,
    StreamState,
    Update,
)
from photon.core.outer import EMA
from photon.core.policy import closing
from photon.data.read.stream import JoinedStream, Stream
from photon.errors import PhotonWarning, RoundFailed
from photon.evaluation.loss import held_out_loss
from photon.machine.interrupt import StopRequest
from photon.model.build import build_model, parameters_of
from photon.node import pace
from photon.node.client_host import ClientHost
from photon.run.base import Base
from photon.run.checkpoint import load_parameters, newest_checkpoint, save_server_state
from photon.run.outer import outer_of
from photon.run.participation import Participation
from photon.run.preparation import architecture_of
from photon.run.run_data import VALIDATION, RunData
from photon.run.trackers import read_lines
from photon.server import loop as server
from photon.server import privacy
from photon.server.remote import RemoteEngine
from photon.server.rules import rules_of
from photon.training.layers import layers_of
from photon.training.loop import Trainer

CPU = torch.device("cpu")


def resolved(config: Config, **how: Any) -> Run:
    return resolve(config, **{"cores": 4, "accelerator": 0, "run_uuid": "r", **how})


class Synthetic:
    """Rows of a fixed pattern in the model's vocabulary."""

    def __init__(self, length: int, vocabulary: int) -> None:
        self.length, self.vocabulary, self.shard_rows = length, vocabulary, [64]

    def __len__(self) -> int:
        return 64

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.stack(
            [np.arange(self.length + 1) * (i + 1) % min(40, self.vocabulary) for i in indices]
        )


def steps_of(config: Config, steps: int = 3) -> Any:
    """Loss of each of some optimizer steps, rates, and the parameters that they lead to."""
    model = architecture_of(config.inner.model, config.federation.vocabulary)
    run = resolved(config.with_model(model))
    inner = run.inner
    seeded = list(parameters_of(build_model(inner, 0)))
    trainer = Trainer(inner, run.seed, CPU, frozen=layers_of(run.federation, seeded).frozen)
    stream = JoinedStream(
        [Stream(Synthetic(inner.row_length, inner.model.vocab_size), seed=1, client=0)]  # pyright: ignore
    )
    trainer.state = trainer.state.__class__(streams=stream.start())
    segment = trainer.train(stream, steps)
    return segment.losses, segment.learning_rates, digest(parameters_of(trainer.model))


def rates(config: Config) -> Any:
    return steps_of(config, 8)[1]


def outer_step(config: Config) -> Any:
    """Three outer steps on one parameter: where it is then, and what is given out."""
    params, state = {"w": torch.arange(4.0)}, None
    for number in (1, 2, 3):
        outer = outer_of(config.federation, number)
        state = outer.init(params) if state is None else state
        params, state = outer.step(params, {"w": torch.ones(4) * number}, state)
    return [tree["w"].tolist() for tree in (params, state.get(EMA, params))]


def cohort(config: Config) -> Any:
    """Whom and how much each of three rounds asks."""
    state = ServerState(round=0, step=0, params={}, outer={}, speeds={0: 1.0, 1: 9.0, 2: 9.0})
    fl, inner = config.federation, config.inner
    rows = (100, 10, 10, 200)
    rule = Participation(fl, config.seed, inner.local_steps, inner.batch_rows, rows)
    alive = range(fl.population)
    return [rule.choose(ServerState(**{**_fields(state), "round": n}), alive) for n in range(3)]


def _fields(state: Any) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__dataclass_fields__}


def begins(config: Config, tmp: Path) -> Any:
    """What a client's second round starts from."""
    this = ClientHost(resolved(config), tmp, CPU)
    task = Instruction(run="r", round=2, client=0, first_step=3, local_steps=3, base_digest="d",
                       last_accepted=1)  # fmt: skip
    own = {"exp_avg": {"w": torch.ones(1)}}
    before = ClientState(round=1, stream=StreamState(cursor=5), moments=own, optimizer_step=3)
    averaged = {"exp_avg": {"w": torch.zeros(1)}}
    state = this._begin(task, before, {"w": torch.ones(1)}, averaged)
    return state.streams, state.step, state.optimizer_step, str(state.moments)


class Answers:
    """An engine whose clients answer at once, with parameters of one number each.

    Args:
        spoil: makes of a round's number and its updates by client what the server gets.
        tokens: of a step.
    """

    can_be_late = True
    busy = 0
    devices = 1
    durations: Sequence[float] = ()
    clock = staticmethod(time.monotonic)

    def __init__(
        self, clients: int, spoil: Callable[[int, dict[int, Update]], list[Update]], tokens: int
    ) -> None:
        self.clients, self.spoil, self.tokens = range(clients), spoil, tokens
        self.asked: list[Any] = []

    def alive(self, should_stop: Callable[[], bool]) -> Sequence[int]:
        return self.clients

    def take_traffic(self) -> None:
        """Nothing travels."""

    def run_round(
        self, plan: RoundPlan, base: Base, waiting: deque[int], should_stop: Callable[[], bool]
    ) -> Generator[Update, None, None]:
        params = base.sent.params
        self.asked.append((plan.round, plan.cohort))
        names = plan.trained or list(params)
        made = {
            task.client: Update(
                run=task.run, round=task.round, client=task.client, moments={},
                gradient=encode({n: torch.full_like(params[n], 1e-4 * (task.client + 1))
                                 for n in names}, plan.up.gradient)[0],
                num_tokens=task.local_steps * plan.bounds.tokens_per_step,
                num_steps=task.local_steps,
                base_digest=task.base_digest, metrics={"train_loss": 1.0},
            )
            for task in map(plan.instructions.__getitem__, waiting)
        }  # fmt: skip
        waiting.clear()
        yield from self.spoil(plan.round, made)

    def cancel(self, before: int) -> None:
        pass

    def close(self) -> None:
        pass


def served(spoil: Callable[..., list[Update]]) -> Callable[..., Any]:
    """What a server makes of such answers: whom it asks, its records, its last parameters."""

    def observe(config: Config, tmp: Path) -> Any:
        run = resolved(config).but(name="r", federation={"averages_moments": False})
        folder, records, error = Path(tempfile.mkdtemp(dir=tmp)), [], ""
        state = server.initial_state(
            parameters_of(build_model(run.inner, run.seed)), outer_of(run.federation, 1)
        )
        save_server_state(folder, state)
        clients = Answers(run.federation.population, spoil, run.inner.tokens_per_step)
        effects = server.Effects(validate=lambda _: {}, track=records.append)
        this = server.Server(run, folder, clients, StopRequest(), effects)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PhotonWarning)
            try:
                this.serve(state)
            except RoundFailed as failed:
                error = str(failed)
        params = load_parameters(newest_checkpoint(folder))
        return clients.asked, [without_clock(r) for r in records], error, digest(params)

    observe.__name__ = f"served_{spoil.__name__}"
    return observe


def soundly(number: int, updates: dict[int, Update]) -> list[Update]:
    return list(updates.values())


def privately(config: Config, tmp: Path, monkeypatch: Any) -> Any:
    """What a server makes of such answers whose key is the same in every run."""
    monkeypatch.setattr(privacy, "own_key", lambda path, size: bytes(size))
    return served(soundly)(config, Path(tempfile.mkdtemp(dir=tmp)))


def with_one_missing(number: int, updates: dict[int, Update]) -> list[Update]:
    """In the second round, whenever it is tried."""
    return [u for u in updates.values() if (number, u.client) != (2, 1)]


def with_one_late(number: int, updates: dict[int, Update], kept: list[Update] = []) -> list[Update]:  # noqa: B006
    """The second client has one update, of the first round, and sends it in the fourth."""
    if number == 1:
        kept[:] = [updates[1]]
    return [updates[0], *(kept if number == 4 else ())]


def with_one_larger(number: int, updates: dict[int, Update]) -> list[Update]:
    """In the third round, when there is something to compare it with."""
    return [_larger(u, 3.0) if (number, u.client) == (3, 1) else u for u in updates.values()]


def with_one_too_large(number: int, updates: dict[int, Update]) -> list[Update]:
    """In the first round, when nothing is known but what its steps can do."""
    return [_larger(u, 1e3) if (number, u.client) == (1, 1) else u for u in updates.values()]


def _larger(update: Update, factor: float) -> Update:
    return replace(update, gradient={n: v * factor for n, v in update.gradient.items()})


def without_clock(line: Any) -> dict[str, str]:
    """Without bytes of headers either, whose facts are seconds too."""
    clock = ("seconds", "busy", "peak", "per_second", "wait", "utilization")
    headers = ("bytes_up", "client_bytes", "bytes_by_kind", "client_metrics", "mean_metrics")
    kinds = {way: {**its, "rest": None} for way, its in line.get("bytes_by_kind", {}).items()}
    return {k: str(v) for k, v in line.items()
            if not any(c in k for c in clock) and k not in headers} | {
            "kinds": str(kinds)}  # fmt: skip


def waits(config: Config) -> Any:
    """When a server begins, and with how many nodes, if one comes every ten seconds."""
    now, engine = [0], cast(Any, object.__new__(RemoteEngine))
    engine.run, engine._all_came, engine._hint = config, False, str
    engine.roster = SimpleNamespace(members={}, absent=dict)
    engine._waiting = SimpleNamespace(tell=lambda line: None, is_over=lambda: None)
    engine._free = lambda: range(config.federation.population)
    engine._listen = lambda *_: engine.roster.members.update({now[0] // 10: "node"})

    def tick() -> int:
        now[0] += 1
        return now[0]

    engine.clock = tick
    with contextlib.suppress(RoundFailed):
        engine.alive(lambda: False)
        return "begins", now[0], len(engine.roster.members)
    return "fails", now[0]


def closes(config: Config) -> Any:
    """Seconds after which a round ends, with one missing, and with all but a quorum."""
    size, durations = config.federation.cohort_size, [10.0, 11.0, 15.0]
    rules = rules_of(config.federation, can_be_late=True)
    plan = RoundPlan(round=1, cohort=tuple(range(size)), instructions={}, base_digest="")

    def is_over(count: int, seconds: float) -> bool:
        arrived = dict.fromkeys(range(count), True)
        return closing(plan, arrived, seconds, durations, rules) == "close"

    return [[s for s in range(0, 200, 5) if is_over(count, s)][:1] for count in (0, size - 1, size)]


def forward_passes(config: Config) -> Any:
    """Shapes that the model sees in a validation."""
    run = resolved(config)
    model = build_model(run.inner, 0)
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    rows = RunData.of(run.data, run.inner, run.seed).rows(VALIDATION)
    return held_out_loss(model, rows, run.inner).loss, seen


def recomputed(config: Config) -> Any:
    """How often a block computes for one gradient."""
    model, calls = build_model(resolved(config).inner, 0), []
    model.get_submodule("blocks.0").register_forward_pre_hook(lambda *_: calls.append(1))
    tokens = torch.arange(9)[None]
    model(tokens[:, :-1], tokens[:, 1:]).objective.backward()
    return len(calls)


def record(config: Config, centralized: bool = False) -> Any:
    """Records and files of a whole run, but for its clock."""
    result = photon.train(config, centralized=centralized)
    folder = Path(result.folder)
    lines = read_lines(folder / "metrics.jsonl")
    steady = [without_clock(line) for line in lines]
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    names = [re.sub("-[0-9a-f]{12}", "", name) for name in files]  # an update names its run
    own = [sorted(m) for m in lines[-1].get("client_metrics", {}).values()]
    return result.unigram, steady, sorted(names), own


def paced(config: Config, monkeypatch: Any) -> Any:
    """How often training sleeps, for minutes."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=slept.append)
    monkeypatch.setattr(pace, "time", clock)
    photon.train(config)
    return sum(seconds > 60 for seconds in slept)


def central(config: Config) -> Any:
    return record(config, centralized=True)


def observed(observe: Callable[..., Any], config: Config, tmp_path: Path, monkeypatch: Any) -> Any:
    given = {"tmp": tmp_path, "monkeypatch": monkeypatch}
    names = observe.__code__.co_varnames[: observe.__code__.co_argcount]
    return observe(config, **{name: given[name] for name in names if name in given})
