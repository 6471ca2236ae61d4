"""What nodes say: parsed whoever says it; nothing that one says ends the server."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from photon.core.traffic import kinds_up
from photon.errors import PayloadError, StorageError
from photon.server.errand import fault_of
from photon.wire.buffers import Buffers, pack
from photon.wire.facts import update_of
from photon.wire.messages import Introduction, Refused, Trained

FACTS = {
    "run": "r", "round": 1, "client": 0,
    "num_tokens": 10, "num_steps": 5, "base_digest": "0" * 32, "state_lost": False, "covers": [0],
    "metrics": {"train_loss": 2.5, "skipped_steps": 0},
}  # fmt: skip


TENSORS = {"moments/exp_avg/w": torch.ones(2), "gradient/w": torch.zeros(3)}


def test_facts_come_back_as_they_were():
    update = update_of(TENSORS, FACTS)
    assert {key: getattr(update, key) for key in FACTS} == {**FACTS, "covers": (0,)}
    assert (list(update.gradient), list(update.moments["exp_avg"])) == (["w"], ["w"])
    assert kinds_up(update) == {"gradient": 4 * 3, "moments": 4 * 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_tokens", "100"), ("num_tokens", 10**400), ("num_tokens", -1), ("num_tokens", True),
     ("num_tokens", 1.5), ("num_steps", None), ("round", [1]), ("covers", ["x"]), ("covers", "01"),
     ("metrics", {"tokens_per_second": [1]}), ("metrics", {"train_loss": "a text"}),
     ("metrics", {"train_loss": float("inf")}), ("metrics", {"train_loss": 10**400}),
     ("metrics", {"a" * 100: 1}), ("metrics", {"\n": 1}), ("metrics", None),
     ("metrics", {str(i): 1 for i in range(100)}), ("state_lost", "yes"), ("more", 1),
     ("names", ["w"]), ("moments", {}), ("gradient", {}), ("clients", 1), ("run", "r" * 2000)],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused(key, value):
    with pytest.raises(PayloadError, match="not an update"):
        update_of(TENSORS, {**FACTS, key: value})


@pytest.mark.parametrize("key", [k for k in FACTS if k not in ("state_lost", "covers")])
def test_no_fact_may_be_missing(key):
    with pytest.raises(PayloadError, match=key):
        update_of(TENSORS, {k: v for k, v in FACTS.items() if k != key})


@pytest.mark.parametrize(
    "name", ["w", "run", "run/w", "params/w", "gradient", "gradient/", "moments/exp_avg",
             "moments/exp_avg/", "moments//w", "/w", "", "x" * 10_000]
)  # fmt: skip
def test_a_tensor_that_an_update_does_not_have_is_refused(name):
    with pytest.raises(PayloadError, match="not the parts of Update") as refused:
        update_of({**TENSORS, name: torch.zeros(1)}, FACTS)
    assert len(str(refused.value)) < 200


def test_of_many_mutants_none_ends_the_server_or_harms_a_round(monkeypatch):
    """Seeded; the benchmark does more of them."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from fuzz_facts import fuzz

    for whole_way in (1, 400):
        outcomes = fuzz(400, seed=0, whole_way=whole_way)
        assert set(outcomes) == {"accepted", "refused", "failed"}


def test_texts_of_nodes_are_short_where_they_come_in():
    long = "\x1b[31m" + "x" * (20 << 20)
    intro = Introduction(name="a", clients=[0], protocol=2, versions={long: long})
    texts = [Refused(error=long).error, Trained(failed={0: long}).failed[0], *intro.versions]
    for text in texts:
        assert len(text) == 500
        assert text.isprintable()


def test_an_introduction_has_bounds():
    for fields in ({"clients": [-1]}, {"clients": [10**400]}, {"clients": [0] * (1 << 21)},
                   {"versions": {str(i): "" for i in range(99)}}, {"name": "\n"}):  # fmt: skip
        with pytest.raises(ValueError, match="Introduction"):
            Introduction(**{"name": "a", "clients": [0], "versions": {}, "protocol": 2, **fields})


def test_a_fault_of_our_own_is_named_and_a_full_disk_ends_the_run():
    assert fault_of(PayloadError("late\n")) == "late "
    assert "fault of the server: KeyError" in fault_of(KeyError("x"))
    with pytest.raises(StorageError):
        fault_of(StorageError("disk full"))


def test_what_is_no_message_of_ours_is_one_short_line():
    from photon.wire.messages import Done, pack_request, unpack_reply

    request = pack_request(Done())
    body = pack({"x" * 10_000: 1})
    reply = pack({"node": "a\n" * 1000, "body": body, "signature": b"", "to": request.digest})
    with pytest.raises(PayloadError) as caught:
        unpack_reply(request, Buffers(reply.view()), Done, None)
    assert len(str(caught.value)) < 300
