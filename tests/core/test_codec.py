"""Codecs: what is refused of what arrives, reading in chunks, feedback on the way down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from photon import points
from photon.core.aggregate import fold
from photon.core.codec import BF16, FP32, Codec, Codecs, Leaf, decode, encode, layout, leaves
from photon.core.gate import refusal
from photon.core.messages import Bounds, MomentBound, ServerState, Update
from photon.core.outer import sgd
from photon.core.round import Rules, close_round, open_round
from photon.core.tree import norm, spans
from states import copied

PARAMS = {"w": torch.linspace(-1, 1, 35).view(7, 5), "b": torch.tensor([0.3, -0.2, 0.1])}


def keep_largest(value: torch.Tensor, residual: torch.Tensor | None) -> tuple[dict, torch.Tensor]:
    """A third of the elements, with their places."""
    wanted = value if residual is None else value + residual
    flat = wanted.reshape(-1)
    places = flat.abs().topk(-(-flat.numel() // 3)).indices
    left = flat.clone().index_fill_(0, places, 0.0)
    return {"values": flat[places], "places": places.int()}, left.view(value.shape)


def read_largest(leaf: Leaf, start: int, stop: int) -> torch.Tensor:
    values, places = leaf.parts["values"], leaf.parts["places"].long()
    inside = (places >= start) & (places < stop)
    return torch.zeros(stop - start).index_add_(0, places[inside] - start, values[inside])


def fault_of_largest(leaf: Leaf) -> str | None:
    places = leaf.parts["places"]
    return None if bool((places < leaf.numel()).all()) else "a place beyond the end"


LARGEST = Codec(keep_largest, read_largest, fault_of_largest)
MOMENT = {"m": MomentBound(names=("w", "b"))}


def opened(**bounds: Any):
    server = ServerState(round=0, step=0, params=PARAMS, outer={})
    rules = Rules(quorum=1, up=Codecs(LARGEST, LARGEST), down=Codecs(LARGEST, LARGEST))
    plan = open_round(
        server, run="r", steps={0: 1, 1: 1}, rules=rules, base_digest="d", bounds=Bounds(**bounds)
    )
    return server, plan, rules


def update_of(plan, client: int, gradient, moments=None) -> Update:
    return Update(
        run="r", round=plan.round, client=client, gradient=gradient, moments=moments or {},
        num_tokens=10, num_steps=1, base_digest=plan.base_digest,
        metrics={"train_loss": 1.0},
    )  # fmt: skip


def sent(factor: float = 1.0) -> dict[str, torch.Tensor]:
    return encode({name: value * factor for name, value in PARAMS.items()}, LARGEST)[0]


def test_every_entry_of_the_table_is_a_codec():
    for name in points.CODECS:
        assert isinstance(points.codec(name), Codec)


@pytest.mark.parametrize("codec", [BF16, FP32, LARGEST])
def test_what_must_be_sent_is_known_from_the_shapes(codec):
    expected, found = layout(PARAMS, codec), encode(PARAMS, codec)[0]
    assert all(value.device.type == "meta" for value in expected.values())
    assert [(k, v.shape, v.dtype) for k, v in expected.items()] == [
        (k, v.shape, v.dtype) for k, v in found.items()
    ]


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_chunks_give_what_the_whole_gives(chunk):
    whole = decode(sent(), PARAMS, LARGEST)
    flat = PARAMS["w"].abs().flatten()
    assert (whole["w"] != 0).sum() == 12
    assert whole["w"].abs().flatten()[flat.topk(12).indices].min() == flat.topk(12).values.min()
    found = leaves(sent(), PARAMS, LARGEST)
    read: dict[str, list[torch.Tensor]] = {name: [] for name in found}
    for name, start, stop in spans(found, chunk):
        read[name].append(found[name].read(start, stop))
    assert all(torch.equal(torch.cat(parts), whole[n].flatten()) for n, parts in read.items())
    assert norm(found) == pytest.approx(norm(whole), rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"w/places": None}, "parameter w/places is on one side only"),
        ({"w/values": torch.ones(13)}, r"w/values has shape [13], expected [12]"),
        ({"w/places": torch.zeros(12, dtype=torch.int64)}, "torch.int64, expected torch.int32"),
        ({"w/places": torch.full((12,), 35, dtype=torch.int32)}, "w: a place beyond the end"),
        ({"x/values": torch.ones(1)}, "parameter x/values is on one side only"),
    ],
)
@pytest.mark.parametrize("what", ["pseudo-gradient", "m"])
def test_what_does_not_fit_the_codec_is_refused(what, changes, reason):
    server, plan, _ = opened(moments=MOMENT)
    bad = {name: value for name, value in (sent() | changes).items() if value is not None}
    trees = {"pseudo-gradient": sent(), "m": sent(), what: bad}
    update = update_of(plan, 0, trees["pseudo-gradient"], {"m": trees["m"]})
    found = refusal(update, plan, server)
    assert found is not None
    assert found.startswith(what)
    assert reason in found


def test_a_round_is_the_mean_of_what_was_sent():
    server, plan, rules = opened()
    updates = [update_of(plan, client, sent(client + 1)) for client in (0, 1)]
    new, report = close_round(copied(server), plan, updates, outer=sgd(lr=1.0), rules=rules)
    kept = decode(sent(), PARAMS, LARGEST)
    for name, value in PARAMS.items():
        torch.testing.assert_close(new.params[name], value - 1.5 * kept[name])
    assert report.client_norms == pytest.approx({0: norm(kept), 1: 2 * norm(kept)})
    assert report.client_cosines == pytest.approx({0: 1.0, 1: 1.0})


def test_what_the_way_down_loses_goes_down_in_the_next_round():
    """Clients hold what they were told; what the codec has lost of it is told next."""
    server, plan, _ = opened()
    plan, rules = replace(plan, up=Codecs()), Rules(quorum=1, down=Codecs(parameters=LARGEST))
    held = dict(PARAMS)
    for number in range(1, 5):
        plan = replace(plan, round=number)
        update = update_of(plan, 0, PARAMS)
        server, _ = close_round(copied(server), plan, [update], outer=sgd(lr=1.0), rules=rules)
        told = decode(server.difference, PARAMS, LARGEST)
        assert all(torch.count_nonzero(told[name]) == -(-told[name].numel() // 3) for name in told)
        held = {name: value + told[name] for name, value in held.items()}
        for name, value in PARAMS.items():
            torch.testing.assert_close(server.params[name], (1 - number) * value)
            assert torch.equal(server.held[name], held[name]), "the same bits"
    for _ in range(3):  # nothing is left after as many rounds as there are parts
        plan = replace(plan, round=plan.round + 1)
        update = update_of(plan, 0, {n: torch.zeros_like(v) for n, v in PARAMS.items()})
        server, _ = close_round(copied(server), plan, [update], outer=sgd(lr=1.0), rules=rules)
    for name, value in server.params.items():
        torch.testing.assert_close(server.held[name], value)


def test_the_mean_of_a_node_is_in_fp32():
    _, plan, _ = opened()
    folded = fold(
        [update_of(plan, c, sent(c + 1)) for c in (0, 1)], PARAMS, Codecs(LARGEST, LARGEST)
    )
    kept = decode(sent(), PARAMS, LARGEST)
    for name, value in folded.gradient.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, 1.5 * kept[name])
