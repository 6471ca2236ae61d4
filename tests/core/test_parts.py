"""States as tensors and facts: whatever is in one comes back, in its order; nothing else does."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from photon.config.base import MOST
from photon.container.header import MAX_HEADER_BYTES, write_header
from photon.core.loss_scale import LossScale
from photon.core.messages import (
    Broadcast,
    ClientState,
    Difference,
    Norm,
    ServerState,
    StreamState,
    Update,
)
from photon.core.parts import STAYS, from_parts, parts_of
from photon.core.trust.reputation import Reputation
from photon.errors import PayloadError
from photon.training.state import TrainState


def tree(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((2,), float(len(name))) for name in names}


MOMENTS = {"exp_avg_sq": tree("z", "a/b"), "exp_avg": tree("a/b", "z")}
STATES = [
    ServerState(
        round=3, step=9, params=tree("z", "a/b"), outer={"momentum": tree("z", "a/b")},
        moments=MOMENTS, num_tokens=7, last_accepted={10: 2, 9: 1}, bytes_up=1, bytes_down=2,
        descents={10: "x", 9: "y"},
        is_seeded=True,
        train_seconds=0.1, norms=(Norm(0.5, 1, 0.1), Norm(1.5, 2, 0.2, 1)), bases={3: "x"},
        speeds={4: 1.25},
        noise={"scale": 2.0}, held=tree("a/b"), difference=tree("a/b/codes"), difference_from="x",
        gathered=0.5, redrawn=3, moved=(2, 1),
        reputation=Reputation(
            gains=(0.1,), cosines=(0.2, 0.3), failures={4: 1}, quarantined={5: 9}
        ),
        releases=((1.0, 8.0, 2.0),), asked=4,
        averaged={"exp_avg_sq": 3, "exp_avg": 2},
    ),
    ClientState(
        round=2, stream=StreamState(epoch=1, cursor=5), moments=MOMENTS, optimizer_step=4,
        loss_scale=LossScale(factor=8.0, good_steps=3), layers=tree("z"),
        residual=tree("z", "a/b"), ahead=tree("a/b"), told=tree("z"), descent="x",
    ),
    TrainState(
        params=tree("z", "a/b"), moments=MOMENTS, optimizer_step=3, step=4, steps_done=2,
        skipped_steps=1, num_tokens=6, loss_sum=0.1 + 0.2, loss_scale=LossScale(good_steps=1),
        streams=(StreamState(cursor=1), StreamState(epoch=2)),
    ),
    Update(
        run="r", round=1, client=2, gradient=tree("z", "a/b"), moments=MOMENTS, num_tokens=3,
        num_steps=4, base_digest="d", metrics={"train_loss": 1.5}, state_lost=True, covers=(2, 5),
    ),
    Broadcast(params=tree("z", "a/b"), moments=MOMENTS, averaged={"exp_avg_sq": 3}),
    Difference(
        before="x", after="y", params=tree("z/codes", "z/scale"), moments=MOMENTS,
        averaged={"exp_avg_sq": 3},
    ),
]  # fmt: skip


def plain(value: Any) -> Any:
    """Comparable: tensors as lists, mappings as lists of pairs, so that their order counts."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    return value


@pytest.mark.parametrize("state", STATES, ids=lambda state: type(state).__name__)
def test_a_state_comes_back_through_json(state):
    """Every field of each differs from its default, so that none can be left out."""
    tensors, facts = parts_of(state)
    found = from_parts(type(state), tensors, json.loads(json.dumps(facts)))
    for field in fields(state):
        if field.metadata == STAYS:
            assert field.name not in facts
            continue
        value = getattr(state, field.name)
        assert plain(getattr(found, field.name)) == plain(value)
        assert type(getattr(found, field.name)) is type(value)
        if field.default is not field.default_factory:
            assert value != field.default


def test_the_head_of_a_state_has_room_for_all_clients_that_a_federation_may_have():
    """A fiftieth of them, with numbers, rounds and speeds of as many digits as they may have."""
    clients = range(MOST["population"] * 49 // 50, MOST["population"])
    rounds = dict.fromkeys(clients, MOST["rounds"])
    speeds = dict.fromkeys(clients, 123456.78901234567)
    state = replace(STATES[0], last_accepted=rounds, speeds=speeds)
    assert 50 * len(write_header(*parts_of(state))) < MAX_HEADER_BYTES


def test_tensors_are_named_and_not_copied():
    tensors, facts = parts_of(STATES[0])
    assert list(tensors) == [
        "params/z", "params/a/b", "outer/momentum/z", "outer/momentum/a/b", "moments/exp_avg_sq/z",
        "moments/exp_avg_sq/a/b", "moments/exp_avg/a/b", "moments/exp_avg/z", "held/a/b",
        "difference/a/b/codes",
    ]  # fmt: skip
    assert tensors["params/z"] is STATES[0].params["z"]
    assert facts["last_accepted"] == {"10": 2, "9": 1}


def test_what_a_kind_does_not_have_or_lacks_is_refused():
    tensors, facts = parts_of(replace(STATES[3], metrics={}))
    for more in ("params/w", "gradient", "moments/w", "round", "/"):
        with pytest.raises(PayloadError, match=f"not the parts of Update: tensor '{more}'"):
            from_parts(Update, {**tensors, more: torch.zeros(1)}, facts)
    for more in ("clients", "gradient", "x"):
        with pytest.raises(PayloadError, match=f"fact '{more}'"):
            from_parts(Update, tensors, {**facts, more: {}})
    for key in ("round", "metrics"):
        with pytest.raises(PayloadError, match=key):
            from_parts(Update, tensors, {k: v for k, v in facts.items() if k != key})
    with pytest.raises(PayloadError, match="not the parts of Update"):
        from_parts(Update, tensors, {**facts, "covers": 3})
