"""Messages of secure aggregation: bounded field by field; mutants are refused, or are messages."""

from __future__ import annotations

import random

import pytest
import torch

from photon.errors import PayloadError
from photon.secure.payload import numbers_in
from photon.wire.buffers import Buffers, pack
from photon.wire.messages import (
    Agree,
    MaskNumbers,
    Reveal,
    ShareKeys,
    Told,
    pack_reply,
    pack_request,
    unpack_reply,
    unpack_request,
)

SESSION = "0123456789abcdef" * 2
AGREE = {
    "session": SESSION, "run": "r", "round": 3, "base_digest": "d", "cohort": 4, "threshold": 3,
    "most_tokens": 1000, "reaches": {"pseudo-gradient": 0.5}, "parties": [0, 1, 2, 3],
    "clients": [0, 2],
}  # fmt: skip
REQUESTS = [
    Agree(**AGREE),
    ShareKeys(session=SESSION, keys={0: b"k" * 96, 1: b"l" * 96}),
    MaskNumbers(session=SESSION, sealed={0: {1: b"s" * 82}}, upload={0: {"via": "inline"}}),
    Reveal(session=SESSION, clients=[0], survivors=[0, 1, 2]),
]
TOLD = Told(keys={0: b"k" * 96}, shares={0: {1: b"s" * 33}}, updates={0: {}}, failed={1: "no"})


def test_messages_come_back_as_they_were():
    for request in REQUESTS:
        message = pack_request(request)
        assert unpack_request(message) == request
        reply = pack_reply(message, "a", TOLD, None)
        assert unpack_reply(message, reply, Told, None) == ("a", TOLD)


@pytest.mark.parametrize(
    ("key", "value"),
    [("session", "x" * 32), ("session", SESSION[:-1]), ("session", b"0" * 32), ("round", 0),
     ("cohort", 1), ("cohort", 5000), ("cohort", True), ("threshold", 1), ("threshold", "3"),
     ("most_tokens", 0), ("most_tokens", 2**54), ("reaches", {}), ("reaches", {"a": float("nan")}),
     ("reaches", {"a": "1"}), ("reaches", {str(i): 1.0 for i in range(9)}), ("parties", []),
     ("parties", [-1]), ("parties", list(range(5000))), ("clients", []), ("clients", [10**9]),
     ("run", "r" * 2000), ("more", 1)],
)  # fmt: skip
def test_terms_that_do_not_fit_are_refused(key, value):
    message = pack({"nonce": b"", "body": {"kind": "agree", **AGREE, key: value}})
    with pytest.raises(PayloadError, match="request"):
        unpack_request(message)


@pytest.mark.parametrize(
    "body",
    [{"kind": "share", "session": SESSION, "keys": {0: b"k" * 95}},
     {"kind": "share", "session": SESSION, "keys": {0: "k" * 96}},
     {"kind": "share", "session": SESSION, "keys": {-1: b"k" * 96}},
     {"kind": "mask", "session": SESSION, "sealed": {0: {1: b"s" * 83}}},
     {"kind": "mask", "session": SESSION, "sealed": {0: {1: b"s" * 32}}},
     {"kind": "mask", "session": SESSION, "sealed": {0: [b"s" * 82]}},
     {"kind": "reveal", "session": SESSION, "clients": [0], "survivors": []},
     {"kind": "reveal", "session": SESSION, "clients": [0]},
     {"kind": "unmask", "session": SESSION}],
)  # fmt: skip
def test_questions_that_do_not_fit_are_refused(body):
    with pytest.raises(PayloadError, match="request"):
        unpack_request(pack({"nonce": b"", "body": body}))


@pytest.mark.parametrize(
    "told", [{"keys": {0: b"k"}}, {"shares": {0: {1: b"s" * 100}}},
             {"shares": {0: {"x": b"s" * 33}}}, {"shares": {0: b"s" * 33}}, {"failed": {0: 1}},
             {"updates": [1]}, {"more": 1}],
)  # fmt: skip
def test_answers_that_do_not_fit_are_refused(told):
    message = pack_request(REQUESTS[0])
    envelope = pack({"node": "a", "body": pack({"Told": told}), "signature": b"",
                     "to": message.digest})  # fmt: skip
    with pytest.raises(PayloadError, match="Told"):
        unpack_reply(message, envelope, Told, None)


def test_mutants_are_refused_or_are_messages():
    draw = random.Random(28)
    whole = [bytes(pack_request(request).view()) for request in REQUESTS]
    asked = pack_request(REQUESTS[0])
    reply = bytes(pack_reply(asked, "a", TOLD, None).view())
    refused = 0
    for count in range(4000):
        data = bytearray(reply if count % 5 == 4 else whole[count % 4])
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            change = draw.randrange(3)
            if change == 0:
                data[at] = draw.randrange(256)
            elif change == 1:
                del data[at : at + draw.randrange(1, 9)]
            else:
                data[at:at] = draw.randbytes(draw.randrange(1, 9))
        try:
            if count % 5 == 4:
                unpack_reply(asked, Buffers(bytes(data)), Told, None)
            else:
                unpack_request(Buffers(bytes(data)))
        except PayloadError:
            refused += 1
    assert refused > 2000


FACTS = {"session": SESSION, "round": 3, "client": 1, "form": "f" * 64}


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [({"pseudo-gradient": torch.zeros(3)}, FACTS),
     ({"pseudo-gradient": torch.zeros(3, dtype=torch.int64)}, FACTS),
     ({"exp_avg_sq": torch.zeros(3, dtype=torch.int32)}, FACTS),
     ({"pseudo-gradient": torch.zeros(3, 1, dtype=torch.int32)}, FACTS),
     ({}, {**FACTS, "client": 2}), ({}, {**FACTS, "session": "1" * 32}), ({}, {}),
     ({}, {**FACTS, "more": 1})],
)  # fmt: skip
def test_what_is_no_masked_update_is_refused(tensors, facts):
    with pytest.raises(PayloadError, match="not a masked update"):
        numbers_in(tensors, facts, FACTS)
