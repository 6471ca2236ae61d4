"""Moments averaged at their own periods: in between, each client goes on with its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import photon
from photon.config.resolve import resolve
from photon.container.container import digest
from photon.core.codec import decode, encode
from photon.core.held import last_averaged
from photon.core.messages import Broadcast, ClientState, Instruction, Moments, Update
from photon.core.tree import Tree
from photon.errors import ConfigError
from photon.model.build import build_model, parameters_of
from photon.node.client_host import ClientHost
from photon.run.checkpoint import (
    load_client_state,
    load_parameters,
    load_server_state,
    load_update,
)
from photon.run.trackers import read_lines
from photon.training.fragments import Fragments
from photon.training.outline import codecs_of
from photon.training.reach import matched

MOMENTS = ["exp_avg", "exp_avg_sq"]


def bits(trees: Moments) -> dict[str, str]:
    return {name: digest(tree) for name, tree in sorted(trees.items())}


class Node:
    """A host of clients that tells what they begin with."""

    def __init__(self, smoke, folder: Path, *keys: str) -> None:
        config = resolve(smoke("llm_config.optimizer.name=adamw", *keys), cores=1, accelerator=0,
                         run_uuid="r")  # fmt: skip
        self.params = parameters_of(build_model(config.inner, config.seed))
        self.codecs = codecs_of(config.federation)
        self.host = ClientHost(config, folder, torch.device("cpu"))
        self.begun: Moments = {}
        self.accepted: dict[int, int] = {}
        load = self.host.trainer.load
        self.host.trainer.load = lambda state: self.note(state.moments) or load(state)

    def note(self, moments: Moments) -> None:
        self.begun = {n: {k: v.clone() for k, v in tree.items()} for n, tree in moments.items()}

    def train(self, client: int, number: int, moments: Moments, **averaged: int):
        """The update and what the client keeps beside it."""
        task = Instruction(
            run="r", round=number, client=client, first_step=number - 1, local_steps=1,
            base_digest=str(number), last_accepted=self.accepted.get(client, 0),
        )  # fmt: skip
        self.accepted[client] = number
        received = Broadcast(params=self.params, moments=moments, averaged=averaged)
        path = self.host.train(task, received).result()
        return load_update(path), load_client_state(path)

    def averaged(self, update: Update) -> tuple[Moments, Moments]:
        """As a server would send them on, of this one; and what clients begin with of that."""
        sent = {name: self._doubled(name, tree) for name, tree in update.moments.items()}
        read = {name: self._read(name, tree) for name, tree in sent.items()}
        return sent, matched(read, self.host.inner.optimizer, update.round)

    def _doubled(self, name: str, sent: Tree) -> Tree:
        twice = {key: 2 * value for key, value in self._read(name, sent).items()}
        return encode(twice, self.codecs.of_moment(name))[0]

    def _read(self, name: str, sent: Tree) -> Tree:
        return decode(sent, self.params, self.codecs.of_moment(name))


def test_between_two_averagings_a_client_goes_on_with_its_own(smoke, tmp_path):
    """And one that was absent at an averaging gets what was averaged, in place of its own."""
    node = Node(smoke, tmp_path, "fl.first_moment_period=2", "fl.second_moment_period=2")
    update, kept = node.train(0, 1, {})
    _, absent = node.train(1, 1, {})
    assert (update.moments, sorted(kept.moments)) == ({}, MOMENTS)
    update, after = node.train(0, 2, {})
    assert bits(node.begun) == bits(kept.moments)
    assert (sorted(update.moments), after.moments) == (MOMENTS, {})
    sent, read = node.averaged(update)
    both = dict.fromkeys(MOMENTS, 2)
    _, kept = node.train(0, 3, sent, **both)
    assert bits(node.begun) == bits(read)
    _, later = node.train(1, 3, sent, **both)
    assert bits(node.begun) == bits(read)
    assert bits(read) != bits(absent.moments)
    node.train(1, 4, sent, **both)
    assert bits(node.begun) == bits(later.moments), "it has gone on from them"
    node.host.close()


def test_each_moment_is_sent_in_its_own_rounds(smoke, tmp_path):
    node = Node(smoke, tmp_path, "fl.first_moment_period=2", "fl.second_moment_period=3")
    _, kept = node.train(0, 1, {})
    update, after = node.train(0, 2, {})
    assert (list(update.moments), list(after.moments)) == (["exp_avg"], ["exp_avg_sq"])
    sent, _ = node.averaged(update)
    update, later = node.train(0, 3, sent, exp_avg=2)
    assert bits(node.begun)["exp_avg_sq"] == bits(after.moments)["exp_avg_sq"]
    assert bits(node.begun)["exp_avg_sq"] != bits(kept.moments)["exp_avg_sq"]
    assert (list(update.moments), list(later.moments)) == (["exp_avg_sq"], ["exp_avg"])
    node.host.close()


def groups_of(node: Node) -> list[set[str]]:
    fragments = Fragments.of(node.host.federation, node.host.layers, node.params)
    return [set(names) for names in fragments.groups]


def restored(own: Moments, read: Moments, names: set[str]) -> Moments:
    """Own moments, with what these parameters have of averaged ones in their place."""
    return {m: {n: read[m][n] if n in names else v for n, v in own[m].items()} for m in own}


def test_with_fragments_a_period_counts_the_turns_of_each(smoke, tmp_path):
    """And each averaging replaces a client's own moments once, whenever it is there again."""
    node = Node(smoke, tmp_path, "fl.fragments=2", "fl.first_moment_period=2",
                "fl.second_moment_period=2", "fl.n_rounds=8")  # fmt: skip
    first, second = groups_of(node)
    noted: dict[str, int] = {}
    sent: Moments = {}
    kept: dict[int, ClientState] = {}
    for number in range(1, 5):
        update, kept[number] = node.train(0, number, sent, **noted)
        is_due = number in (3, 4)
        assert bool(update.moments) == is_due
        if not is_due:
            continue
        carried = {n.partition("/")[0] for tree in update.moments.values() for n in tree}
        assert carried
        assert carried <= (first, second)[1 - number % 2]
        new, _ = node.averaged(update)
        sent = {m: {**sent.get(m, {}), **new[m]} for m in MOMENTS}
        noted |= {f"{m}/{n}": number for m in MOMENTS for n in carried}
    node.train(0, 6, sent, **noted)  # it knows those of round 3, and missed round 5
    read = matched({m: node._read(m, sent[m]) for m in MOMENTS}, node.host.inner.optimizer, 5)
    assert bits(node.begun) == bits(restored(kept[4].moments, read, second))
    assert bits(node.begun) != bits(restored(kept[4].moments, read, first | second))
    node.host.close()


def test_the_later_of_two_notes_counts():
    """A copy that sends all at once has those of its source's fragments as well, and vice versa."""
    averaged = {"exp_avg": 12, "exp_avg/a": 9, "exp_avg/b": 14}
    received = Broadcast(params={}, averaged=averaged)
    rounds = [last_averaged(received, "exp_avg", name) for name in "abc"]
    assert rounds == [12, 14, 12]
    assert last_averaged(received, "exp_avg_sq", "a") == 0


def test_a_fragments_moments_are_sent_in_every_second_of_its_turns(smoke):
    keys = ["fl.fragments=2", "fl.n_rounds=8", "fl.first_moment_period=null",
            "fl.second_moment_period=2"]  # fmt: skip
    folder = Path(photon.train(smoke(*keys, "llm_config.optimizer.name=adamw")).folder)
    lines = read_lines(folder / "metrics.jsonl")
    sent = [bool(line["bytes_by_kind"]["up"]["moments"]) for line in lines]
    assert sent == [False, False, True, True, False, False, True, True]
    state = load_server_state(folder / "checkpoints/round_000008.json")
    assert set(state.averaged.values()) == {7, 8}
    assert {key.partition("/")[0] for key in state.averaged} == {"exp_avg_sq"}
    assert len(state.averaged) == len(state.params) == len(lasting(state.moments["exp_avg_sq"]))


def lasting(tree: Tree) -> set[str]:
    """Names of the parameters whose encoded values these are."""
    return {key.partition("/")[0] for key in tree}


def test_moments_without_a_period_never_leave_their_clients(smoke):
    """Which goes on as if that moment's turn were later than the run's end."""

    def run(name: str, period: str) -> tuple[Path, list[dict]]:
        result = photon.train(
            smoke(f"run_uuid={name}", f"fl.first_moment_period={period}", "fl.n_rounds=5",
                  "fl.second_moment_period=2", "fl.compression.moments=int4")
        )  # fmt: skip
        folder = Path(result.folder)
        return folder, read_lines(folder / "metrics.jsonl")

    (never, lines), (later, others) = run("never", "null"), run("later", "6")
    newest = "checkpoints/round_000005.json"
    assert digest(load_parameters(never / newest)) == digest(load_parameters(later / newest))
    sent = [line["bytes_by_kind"]["up"]["moments"] for line in lines]
    assert [bool(size) for size in sent] == [False, True, False, True, False]
    assert sent == [line["bytes_by_kind"]["up"]["moments"] for line in others]


def test_that_nothing_is_averaged_is_said_by_its_own_key(smoke):
    with pytest.raises(ConfigError, match="averages no moments; set aggregate_momenta=false"):
        smoke("fl.first_moment_period=null", "fl.second_moment_period=null",
              "fl.aggregate_momenta=true")  # fmt: skip


@pytest.mark.parametrize("periods", [(2, 4), (3, 1), ("null", 2), (2, "null")])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adopt"])
def test_a_newcomer_begins_with_zeros_where_nothing_was_averaged_yet(smoke, periods, optimizer):
    """It comes after one kind of moment has been averaged, and before the other has."""
    first, second = periods
    result = photon.train(
        smoke("run_uuid=new", f"fl.first_moment_period={first}", "fl.n_clients_per_round=1",
              f"fl.second_moment_period={second}", f"llm_config.optimizer.name={optimizer}",
              "fl.n_total_clients=2", "fl.n_rounds=6", "seed=5")
    )  # fmt: skip
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    asked = [line["accepted"][0] for line in lines]
    assert len(lines) == 6
    assert set(asked) == {0, 1}


def test_what_a_newcomer_lacks_is_zero(smoke, tmp_path):
    node = Node(smoke, tmp_path, "fl.first_moment_period=1", "fl.second_moment_period=2")
    update, _ = node.train(0, 1, {})
    sent, _ = node.averaged(update)
    node.train(1, 2, sent, exp_avg=1)
    assert sorted(node.begun) == MOMENTS
    assert all(not value.any() for value in node.begun["exp_avg_sq"].values())
    assert all(not value.any() for value in node.begun["exp_avg"].values()), "as that allows"
    node.host.close()


def test_a_run_goes_on_with_the_same_bits_between_averagings(smoke):
    """Of the round after an averaging of one moment, whose other one clients have kept; by a worker
    as in the one process.
    """
    keys = ["fl.first_moment_period=2", "fl.second_moment_period=3", "fl.n_rounds=5",
            "fl.compression.download=bf16",
            "llm_config.optimizer.name=adamw"]  # fmt: skip
    whole, half = (
        Path(photon.train(smoke(f"run_uuid={n}", f"photon.workers={n}", *keys)).folder)
        for n in (0, 1)
    )
    for folder in ("checkpoints", "clients/client_0", "clients/client_1"):
        (half / folder / "round_000005.json").unlink()
    photon.resume(half)
    lines = [read_lines(folder / "metrics.jsonl") for folder in (whole, half)]
    for key in ("train_loss", "gradient_norm", "parameter_norm", "bytes_down"):
        ours, theirs = ([line[key] for line in run] for run in lines)
        assert ours == theirs, key
