"""Rounds whose updates are masked: on one machine, over nodes, and against a plain fixed point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import photon
from loopback import final_digest, nodes, over_sockets, train
from photon.chain.ledger import FILE, whole_lines
from photon.chain.link import parse_link
from photon.chain.verify import verify_run
from photon.config import Config, load_config
from photon.config.between.travel import travelling
from photon.errors import ConfigError, PayloadError, RoundFailed
from photon.experiment import experiment
from photon.node import masking
from photon.node.hosted_run import node_config
from photon.node.mailbox import Mailbox
from photon.node.masking import Masking
from photon.run import checkpoint
from photon.run.trackers import read_lines
from photon.secure.fixed_point import numbers_of, pieces, plain_mean
from photon.secure.session import Sum
from photon.server import errand, loop
from photon.wire import inline
from photon.wire.keys import enrol, make_authority
from photon.wire.messages import Agree

SHAPE = ["fl.n_total_clients=4", "fl.n_rounds=2", "photon.n_nodes=2", "photon.workers=0",
         "fl.secure_aggregation=true", "fl.round_timeout=60", "fl.quorum=3"]  # fmt: skip
PLACES = {"a": [0, 1], "b": [2, 3]}


@pytest.fixture(scope="module")
def make(four, tmp_path_factory):
    home = tmp_path_factory.mktemp("masked")

    def configuration(*overrides: str) -> Config:
        paths = [f"dataset.train.root_local={four}", f"photon.saving_path={home}"]
        return load_config(["recipe=smoke", *paths, *SHAPE, *overrides])

    return configuration


@pytest.fixture(scope="module")
def here(make):
    """The run on one machine."""
    return photon.train(make("run_uuid=here"))


def records(result) -> list[dict]:
    return read_lines(Path(result.folder) / "metrics.jsonl")


def faults(folder: Path, *keys: Path) -> list[str]:
    return [one.text for one in verify_run(folder, keys, []) if one.verdict == "fail"]


def test_a_chain_of_sums_is_sound_and_names_no_single_update(make, here, four, tmp_path):
    """On one machine and over nodes with keys: one entry of all clients, that no node signs."""
    keys = tmp_path / "keys"
    make_authority(keys, ["localhost"])
    for name, clients in PLACES.items():
        enrol(keys, name, clients)
    with nodes(tmp_path, four, PLACES, keys=keys) as sockets:
        there = train(make("run_uuid=signed", "fl.n_rounds=1"), sockets, keys=keys)
    assert not faults(Path(there.folder), keys)
    for result in (here, there):
        folder = Path(result.folder)
        assert not faults(folder)
        links = [parse_link(line) for line in whole_lines(folder / FILE)]
        entries = [link.updates for link in links if link.head.kind == "round"]
        assert entries
        assert all(len(its) == 1 and its[0].covers == [0, 1, 2, 3] for its in entries)
        assert not any(entry.node or entry.signature for its in entries for entry in its)


def plain(terms, parties, like, fewest) -> Sum:
    """In the place of a session: the mean of the same numbers, that nobody masks."""
    clients, own = terms.clients, parties.own
    found = plain_mean([own[c].trees for c in clients], [own[c].tokens for c in clients],
                       terms.most_tokens, terms.reaches, terms.cohort)  # fmt: skip
    mean = {name: {leaf: torch.from_numpy(value).view(like[name][leaf].shape)
                   for leaf, value in tree.items()} for name, tree in found.items()}  # fmt: skip
    return Sum(clients, sum(own[c].tokens for c in clients), mean)


def test_a_masked_run_is_the_plain_one_in_fixed_point(make, here, monkeypatch):
    """Bit for bit, with averaged moments; and near a run without `secure_aggregation`."""
    monkeypatch.setattr(loop, "sum_of", plain)
    assert final_digest(photon.train(make("run_uuid=plain"))) == final_digest(here)
    monkeypatch.undo()
    exact = photon.train(
        make("run_uuid=exact", "fl.secure_aggregation=false", "fl.compression.upload=fp32",
             "fl.compression.moments=fp32", "fl.compression.download=int4"),
    )  # fmt: skip
    assert final_digest(exact) != final_digest(here)
    assert records(exact)[-1]["train_loss"] == pytest.approx(
        records(here)[-1]["train_loss"], rel=2e-3
    )


def test_nodes_give_the_bits_of_one_machine_and_show_no_update(
    make, here, four, tmp_path, monkeypatch
):
    shown = []
    read = errand.update_of

    def noted(tensors, facts):
        shown.append((dict(tensors), dict(facts)))
        return read(tensors, facts)

    monkeypatch.setattr(errand, "update_of", noted)
    monkeypatch.setattr(inline, "MAX_INLINE_BYTES", 50_000)  # a masked update goes in pieces
    with nodes(tmp_path, four, PLACES) as sockets:
        there = train(make("run_uuid=there"), sockets)
    assert final_digest(there) == final_digest(here)
    assert len(shown) == 8
    assert all(not tensors and facts["num_tokens"] == 0 for tensors, facts in shown)
    for ours, theirs in zip(records(here), records(there), strict=True):
        assert theirs["accepted"] == [0, 1, 2, 3]
        for kind in ("gradient", "moments"):
            sent = theirs["bytes_by_kind"]["up"][kind]
            assert sent == ours["bytes_by_kind"]["up"][kind] > 0
        messages = theirs["bytes_up"] - ours["bytes_up"]  # keys, shares, what is said beforehand
        assert 0 < messages < 4 * 3_000


def test_what_a_node_sends_is_none_of_its_numbers(make, four, tmp_path, monkeypatch):
    """Of what the server receives of a client, no number is that of its update in fixed point; and
    the client that has answered `secure_threshold` of them no longer does for others.
    """
    seen = {}
    mask = masking.mask_numbers

    def noted(trees, tokens, terms, with_masks, make, pool):
        bare = mask(trees, tokens, terms, [], make, pool)
        bare = {name: its.copy() for name, its in bare.items()}
        made = mask(trees, tokens, terms, with_masks, make, pool)
        seen[tokens, len(seen)] = {name: (bare[name] == its).mean() for name, its in made.items()}
        return made

    monkeypatch.setattr(masking, "mask_numbers", noted)
    with nodes(tmp_path, four, PLACES) as sockets:
        train(make("run_uuid=secret", "fl.n_rounds=1"), sockets)
    assert len(seen) == 4
    assert all(share < 1e-3 for its in seen.values() for name, share in its.items())


@pytest.mark.parametrize("phase", ["_share", "_mask", "_reveal"])
def test_a_node_that_forgets_its_keys_costs_the_round_its_clients_alone(
    make, four, tmp_path, monkeypatch, phase
):
    """As one that is started anew between two phases does; in the next round it takes part."""
    answer, lost = getattr(Masking, phase), []

    def forgetful(self, asked):
        if self._members.keys() == {3} and not lost:
            lost.append(self._members.clear())
        return answer(self, asked)

    monkeypatch.setattr(Masking, phase, forgetful)
    places = {"a": [0, 1, 2], "b": [3]}
    with nodes(tmp_path, four, places) as sockets:
        result = train(make(f"run_uuid=forgets{phase}"), sockets)
    first, second = records(result)
    others = [0, 1, 2] if phase != "_reveal" else [0, 1, 2, 3]
    assert (first["accepted"], second["accepted"]) == (others, [0, 1, 2, 3])
    why = {"_share": "did not answer", "_mask": "client 3 has no keys here"}.get(phase)
    assert why is None or why in first["missing"]["3"]


def test_below_the_threshold_a_round_fails_and_is_tried_again_without_training(
    make, four, tmp_path, monkeypatch, here
):
    answer, heard = Masking._mask, []

    def failing(self, asked):
        heard.append(asked.session)
        if len(heard) <= 2:  # both nodes, at the first attempt
            raise PayloadError("no")
        return answer(self, asked)

    trained = []
    steps = photon.node.client_host.ClientHost._finish

    def counted(self, *arguments):
        trained.append(1)
        return steps(self, *arguments)

    monkeypatch.setattr(Masking, "_mask", failing)
    monkeypatch.setattr(photon.node.client_host.ClientHost, "_finish", counted)
    with nodes(tmp_path, four, PLACES) as sockets:
        with pytest.warns(UserWarning, match=r"masked updates of 0 clients, 3 are needed"):
            result = train(make("run_uuid=again", "fl.failed_rounds=retry"), sockets)
        monkeypatch.setattr(Masking, "_mask", lambda self, asked: 1 / 0)
        with pytest.raises(RoundFailed, match=r"this attempt reveals nothing.*; client 0: "):
            train(make("run_uuid=stops"), sockets)
    assert final_digest(result) == final_digest(here)
    assert len(trained) == 4 * 2 + 4  # the run that stops has trained its first round
    assert len(set(heard)) == 3


def test_a_client_is_in_one_opened_sum_of_an_update(make, four, tmp_path, monkeypatch):
    """Two sums of the same update with others beside it would differ by those."""
    note, noted = Masking._note, {}

    def keep(self, client, survivors):
        note(self, client, survivors)
        noted[client] = self

    monkeypatch.setattr(Masking, "_note", keep)
    with nodes(tmp_path, four, PLACES) as sockets:
        train(make("run_uuid=once", "fl.n_rounds=1"), sockets)
        again = noted[2]
        note(again, 2, [0, 1, 2, 3])
        with pytest.raises(PayloadError, match=r"opened, of clients 0-3: .*bring all of them back"):
            note(again, 2, [0, 1, 2])
        path = checkpoint.answer_path(again.clients, 2, 1).parent / masking.REVEALED
        path.write_text("{")
        with pytest.raises(PayloadError, match="no share may be told"):
            note(again, 2, [0, 1, 2, 3])


def test_a_server_that_goes_back_opens_no_other_sum_of_a_round(make, four, tmp_path, monkeypatch):
    """Of any round whose update a client still keeps, not of its last one alone."""
    note, noted = Masking._note, {}

    def keep(self, client, survivors):
        note(self, client, survivors)
        noted[client, self._members[client].terms.round] = self._members[client]

    monkeypatch.setattr(Masking, "_note", keep)
    with nodes(tmp_path, four, PLACES) as sockets:
        result = train(make("run_uuid=back"), sockets)
        folder = tmp_path / "b" / Path(result.folder).name / "clients"
        box = Mailbox(tmp_path / "mail")
        again = Masking("back", folder, make().federation, box, 1, lambda: False)
        again._members[2] = noted[2, 1]
        with pytest.raises(PayloadError, match=r"opened, of clients 0-3: .*bring all of them back"):
            note(again, 2, [0, 1, 2])
        note(again, 2, [0, 1, 2, 3])


class Gone(Exception):
    """Stands for a crash."""


def test_a_sum_that_was_opened_before_a_crash_is_given_up_where_a_client_stays_away(
    make, four, tmp_path, monkeypatch
):
    """It names who keeps it from being opened again; a round that is given up is trained anew."""
    close = loop.Server._close

    def crash(self, delivery, rules):
        raise Gone

    monkeypatch.setattr(loop.Server, "_close", crash)
    config = make("run_uuid=opened")
    with nodes(tmp_path, four, {"a": [0, 1, 2], "b": [3]}) as sockets, pytest.raises(Gone):
        train(config, sockets)
    monkeypatch.setattr(loop.Server, "_close", close)
    folder = Path(config.machine.runs_folder) / "opened"
    away = ["photon.n_nodes=1", "fl.failed_rounds=skip"]
    told = "client 0: .*opened, of clients 0-3: .*=skip"
    with nodes(tmp_path, four, {"a": [0, 1, 2]}) as sockets, pytest.warns(UserWarning, match=told):
        result = experiment.resume(folder, away, engine=over_sockets(sockets))
    assert [line["accepted"] for line in records(result)] == [[], [0, 1, 2]]


@pytest.mark.parametrize("more", [["fl.fragments=2"], ["fl.overlap=delayed"],
                                  ["fl.personalized_layers=[norm.weight]",
                                   "fl.aggregate_momenta=false"]])  # fmt: skip
def test_what_else_may_be_had_with_it(make, more):
    result = photon.train(make(f"run_uuid=with-{more[0][3:9]}", *more))
    assert [one["accepted"] for one in records(result)] == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["fl.quorum=2"], "a quorum of 2 is less than the 3 of a cohort of 4"),
        (["fl.quorum=3", "fl.secure_threshold=0.9"], "less than the 4"),
        (["fl.secure_threshold=0.5"], "greater than 0.5"),
        (["fl.n_clients_per_round=1", "fl.quorum=null"], "needs two clients or more"),
        (["fl.n_total_clients=4097"], "masks at most 4,096 clients together"),
    ],
)
def test_a_cohort_whose_masks_protect_nobody_or_are_too_many_is_refused(make, given, reason):
    with pytest.raises(ConfigError, match=reason):
        make(*given)


def test_a_node_trains_for_sums_of_so_many_clients_alone(make):
    """Whatever its server says: `photon.fewest_masked` is the node's own."""
    own = load_config(["photon.fewest_masked=3"])
    for keys, reason in (
        (["fl.secure_aggregation=false"], "the server's fl.secure_aggregation is false"),
        (["fl.n_clients_per_round=2", "fl.quorum=null"], "the server opens those of 2"),
    ):
        theirs = travelling(make("run_uuid=n", *keys).model_dump(mode="json"))
        with pytest.raises(ConfigError, match=reason):
            node_config(theirs, own)
    node_config(travelling(make("run_uuid=n").model_dump(mode="json")), own)


@pytest.mark.parametrize("said", [{"alike": True}, {"cohort": 5}])
def test_a_node_masks_by_its_run_s_own_weights_and_cohort(make, tmp_path, said):
    """Else its number would weigh what the server likes."""
    usual = {"session": "ab" * 16, "run": "n", "round": 1, "base_digest": "d", "cohort": 4,
             "threshold": 3, "most_tokens": 9, "reaches": {"pseudo-gradient": 1.0},
             "parties": [0, 1, 2, 3], "clients": [0]}  # fmt: skip
    federation = make("run_uuid=n").federation
    here = Masking("n", tmp_path, federation, Mailbox(tmp_path), 1, lambda: False)
    assert "not here" in here.answer(Agree.model_validate(usual)).failed[0]
    with pytest.raises(PayloadError, match="that are not the run's"):
        here.answer(Agree.model_validate(usual | said))


def test_without_a_bound_there_is_no_fixed_point(make):
    with pytest.raises(ConfigError, match="gradient_clipping"):
        photon.train(make("llm_config.algorithms.gradient_clipping=null", "run_uuid=unbounded"))


def test_the_largest_number_of_an_update_is_within_the_reach_of_its_scale(make, here, monkeypatch):
    """And not far within it, so that few of the 32 bits are lost: at most 9."""
    used = []

    def noted(terms, parties, like, fewest):
        for own in parties.own.values():
            made = [p for p in pieces(own.trees) if p.tree == "pseudo-gradient"]
            most = max(float(abs(numbers_of(own.trees, piece)).max()) for piece in made)
            used.append(most / terms.reaches["pseudo-gradient"])
        return plain(terms, parties, like, fewest)

    monkeypatch.setattr(loop, "sum_of", noted)
    photon.train(make("run_uuid=within"))
    assert len(used) == 8
    assert 2**-9 < max(used) < 1
