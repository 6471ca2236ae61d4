"""Every rung: how much is lost, that it comes later, how much is sent, what is refused."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from photon import points
from photon.codecs.sparse import largest
from photon.core.aggregate import weighted_mean
from photon.core.codec import Codec, Leaf, decode, encode, form_fault, layout, leaves

RUNGS = ["int8", "int4", "int4:8", "e3m0", "int2", "int2:256", "int1", "uniform", "uniform:50/15",
         "uniform:250/3", "topk", "topk:64/4096/1", "topk:3/8", "topk:8/8"]  # fmt: skip
DENSE = [name for name in RUNGS if not name.startswith(("topk", "uniform"))]
SHAPES = [(), (1,), (0,), (7,), (64,), (65,), (3, 129), (5, 1024), (1 << 18,), (3, 90001)]
NEXT = 17 / 16
"""What a scale may be too large by."""


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def one_only(shape: tuple[int, ...]) -> Tensor:
    value = torch.zeros(shape)
    value.view(-1)[-1:] = 3.0
    return value


MAKES = {
    "normal": drawn,
    "zeros": torch.zeros,
    "denormal": lambda shape: 1e-41 * drawn(shape),
    "tiny": lambda shape: 1e-20 * drawn(shape),
    "huge": lambda shape: 1e34 * drawn(shape),
    "heavy": lambda shape: drawn(shape) / drawn(shape, 1).abs().clamp(min=1e-3),
    "one only": one_only,
}


def most_lost(rung: str, value: Tensor) -> Tensor:
    """What a rung may lose of each element of a row, from the definition of the rung."""
    name, numbers = points.codec_parts(rung)
    if name == "uniform":
        return lost_of_uniform(*numbers, value.abs())
    block = numbers[1] if name == "topk" else numbers[0]
    rows = pad(value.abs(), (0, -value.numel() % block)).view(-1, block)
    sizes = torch.full((len(rows), 1), float(block))
    sizes[-1:] -= rows.numel() - value.numel()
    largest, mean = rows.amax(1, keepdim=True), rows.sum(1, keepdim=True) / sizes
    lost = {
        "int8": lambda: (NEXT * largest / 254).expand_as(rows),
        "int4": lambda: (NEXT * largest / 15).expand_as(rows),
        "e3m0": lambda: torch.maximum(rows / 3, NEXT * largest / 128),
        "int2": lambda: torch.maximum(NEXT * mean * 0.624, rows - 1.872 * mean),
        "int1": lambda: torch.maximum(NEXT * mean - rows, rows - mean),
        "topk": lambda: lost_of_topk(rows, (sizes * numbers[0] / block).ceil(), numbers[2]),
    }
    return lost[name]().reshape(-1)[: value.numel()]


def lost_of_uniform(step: int, levels: int, size: Tensor) -> Tensor:
    unit = step / 100 * float(size.double().square().mean().sqrt())
    return (size - (levels // 2 - 0.5) * unit).clamp(min=0.75 * unit)


def lost_of_topk(rows: Tensor, kept: Tensor, bits: int) -> Tensor:
    """All of what is not kept; of the kept, the distance from the nearest level."""
    least = rows.sort(descending=True).values.gather(1, kept.long() - 1)
    is_kept = (rows >= least) & (rows > 0)
    mean = (rows * is_kept).sum(1, keepdim=True) / is_kept.sum(1, keepdim=True).clamp(min=1)
    levels = torch.tensor([1.0] if bits == 1 else [0.94, 1.24])
    nearest = (rows[..., None] - mean[..., None] * levels).abs().amin(-1) + 1.24 * mean / 16
    is_tie = (rows == least).sum(1, keepdim=True) > 1
    return torch.where(is_kept, torch.where(is_tie, rows + nearest, nearest), rows)


def decoded(codec: Codec, value: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
    parts, left = codec.encode(value, residual)
    assert left is not None
    leaf = Leaf(codec, value.shape, parts)
    assert codec.fault(leaf) is None
    return leaf.read(0, value.numel()).view(value.shape), left


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("rung", RUNGS)
def test_what_is_lost_is_less_than_the_step(rung, make):
    codec = points.codec(rung)
    for shape in SHAPES:
        value = MAKES[make](shape)
        found, left = decoded(codec, value)
        assert found.dtype == left.dtype == torch.float32
        torch.testing.assert_close(found + left, value, rtol=1e-6, atol=1e-6 * float_max(value))
        flat = value.reshape(-1)
        allowed = most_lost(rung, flat) * 1.0001 + float_max(flat) * 2.0**-15 + 2.0**-95
        assert ((found.reshape(-1) - flat).abs() <= allowed).all(), shape
        if make == "zeros":
            assert not found.any()


def float_max(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


@pytest.mark.parametrize("rung", RUNGS)
def test_what_is_lost_comes_later(rung):
    codec = points.codec(rung)
    meant = arrived = torch.zeros(3, 700, dtype=torch.float64)
    left, same = None, drawn((3, 700))
    for step in range(100):
        value = same if step % 3 else drawn((3, 700), step)
        found, left = decoded(codec, value, left)
        meant, arrived = meant + value, arrived + found
    assert left is not None
    size = float_max(left) + float_max(value)
    assert (meant - arrived - left).abs().max() <= 100 * size * 2.0**-23


@pytest.mark.parametrize("rung", RUNGS)
def test_feedback_has_a_bound(rung):
    """A gradient that stays, that is new each time, of one size, of one element."""
    codec = points.codec(rung)
    same = drawn((8192,))
    single = torch.zeros(8192).index_fill_(0, torch.arange(0, 8192, 64), 1.0)
    ways = [
        lambda step: same,
        lambda step: drawn((8192,), step),
        lambda step: torch.ones(8192),
        lambda step: single,
    ]
    for gradient in ways:
        left = None
        for step in range(100):
            found, left = decoded(codec, gradient(step), left)
            assert found.norm() <= codec.gain * gradient(step).norm() * 1.1
        assert left is not None
        assert left.norm() < 99 * gradient(0).norm(), "nothing was sent"


@pytest.mark.parametrize(
    "rung", ["uniform:100/3", "uniform:50/5", "uniform:34/7", "uniform:1/255", "uniform:250/3",
             "uniform:107/7"]
)  # fmt: skip
@pytest.mark.parametrize("spread", [drawn((1024,)), torch.ones(1024)], ids=["normal", "even"])
def test_one_number_after_many_has_the_bound(rung, spread):
    """What is left of many is not read many times too large once the scale is that of one."""
    codec = points.codec(rung)
    many, one = spread / spread.norm(), one_only((1024,)) / 3
    left = None
    for step in range(60):
        found, left = decoded(codec, many if step < 10 else one, left)
        assert found.norm() <= codec.gain


def test_levels_that_end_below_one_root_are_refused_with_what_to_give():
    for levels, least in ((3, 100), (7, 34), (15, 15), (199, 2)):
        points.codec(f"uniform:{least}/{levels}")
        with pytest.raises(ValueError, match=f"give a step from {least} on, or more levels"):
            points.codec(f"uniform:{least - 1}/{levels}")


@pytest.mark.parametrize("rung", [*DENSE, "uniform", "uniform:50/15"])
@pytest.mark.parametrize("make", ["normal", "zeros", "tiny", "heavy", "one only", "denormal"])
def test_a_mean_of_squares_is_never_read_as_zero(rung, make):
    codec = points.codec(rung).squares
    worst = {255: 1.06, 15: 1.27, 3: 1.55}[255 if "8" in rung[:4] else 15 if "int4" in rung or
                                           rung in ("e3m0", "uniform:50/15") else 3]  # fmt: skip
    for shape in SHAPES:
        value = MAKES[make](shape).square()
        sent, left = encode({"v": value}, codec)
        assert left == {}, "a root that is fed back is no sum"
        assert form_fault(sent, {"v": value}, codec) is None
        found = decode(sent, {"v": value}, codec)["v"]
        assert (found[value > 0] > 0).all()
        assert (found >= value / worst**2).all()
        if make == "zeros":
            assert not found.any()
        if make == "normal" and shape == (1 << 18,):
            assert (found.sqrt() - value.sqrt()).square().mean() < 0.06


@pytest.mark.parametrize("rung", [*DENSE, "uniform"])
def test_the_smallest_mean_of_squares_is_not_zero(rung):
    """Beside much larger ones, and where float32 has hardly a smaller number."""
    codec = points.codec(rung).squares
    beside = torch.ones(640)
    beside[256:512] = 1e-30
    for value in (beside, torch.full((300,), 1e-44), torch.logspace(-44, -20, 300)):
        found = decode(encode({"v": value}, codec)[0], {"v": value}, codec)["v"]
        assert (found > 0).all()


@pytest.mark.parametrize("rung", [*DENSE, "uniform"])
def test_no_mean_of_squares_is_zero_where_the_smallest_numbers_are(rung):
    codec, value = points.codec(rung).squares, torch.logspace(-37.9, -36, 600)
    sent = encode({"v": value}, codec)[0]
    torch.set_flush_denormal(True)
    try:
        assert (decode(sent, {"v": value}, codec)["v"] > 0).all()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("rung", [*points.CODECS, *RUNGS])
def test_as_much_is_sent_as_was_said(rung):
    codec, like = points.codec(rung), {"w": drawn((3, 1 << 18))}
    sent, expected = encode(like, codec)[0], layout(like, codec)
    assert [(k, v.dtype) for k, v in sent.items()] == [(k, v.dtype) for k, v in expected.items()]
    size, said = (
        sum(8 * v.numel() * v.dtype.itemsize for v in tree.values()) / like["w"].numel()
        for tree in (sent, expected)
    )
    if rung in points.CODECS:
        assert size == pytest.approx(points.CODECS[rung].bits, rel=0.02)
    if rung == "topk":
        assert size <= 0.15
    if rung not in ("topk:3/8", "topk:8/8"):  # not few among many
        assert said == pytest.approx(size, rel=0.02)
    most = codec.most(like["w"].shape)
    assert all(sent[f"w/{k}" if k else "w"].numel() <= longest for k, longest in most.items())


@pytest.mark.parametrize("rung", RUNGS)
def test_fixed_sizes_follow_from_the_shape(rung):
    codec = points.codec(rung)
    for shape in SHAPES:
        sent, expected = encode({"w": drawn(shape)}, codec)[0], layout({"w": drawn(shape)}, codec)
        if codec.most(torch.Size(shape)):
            assert sent["w"].numel() <= codec.most(torch.Size(shape))[""]
        else:
            assert sent["w"].shape == expected["w"].shape


@pytest.mark.parametrize("rung", RUNGS)
def test_pieces_are_what_the_whole_is(rung):
    value = drawn((5, 60001))
    codec = points.codec(rung)
    parts = codec.encode(value, None)[0]
    whole = Leaf(codec, value.shape, parts).read(0, value.numel())
    leaf, rng = Leaf(codec, value.shape, parts), random.Random(0)
    for _ in range(60):
        start = rng.randrange(value.numel() + 1)
        stop = min(value.numel(), start + rng.choice([0, 1, 7, 64, 1000, 100000]))
        assert torch.equal(leaf.read(start, stop), whole[start:stop])


@pytest.mark.parametrize("rung", RUNGS)
def test_the_same_is_sent_however_much_is_worked_on_at_once(rung, monkeypatch):
    codec, value = points.codec(rung), drawn((7, 90001))
    rows = []
    for size in (1 << 20, 1 << 18, 1 << 19):
        monkeypatch.setattr("photon.codecs.pieces.WORK", size)
        found, left = decoded(codec, value, 0.1 * value)
        torch.testing.assert_close(found + left, 1.1 * value, rtol=1e-6, atol=1e-6)
        squares = codec.squares and codec.squares.encode(value.square(), None)[0][""]
        rows.append((codec.encode(value, None)[0][""], squares))
    for sent, squares in rows[1:]:
        if not rung.startswith("uniform"):  # whose scale is a sum in another order
            assert torch.equal(sent, rows[0][0])
        assert squares is None or torch.equal(squares, rows[0][1])


@pytest.mark.parametrize("rung", RUNGS)
def test_the_residual_is_given_away_and_the_value_is_not(rung):
    codec, value, residual = points.codec(rung), drawn((4, 1024)), 0.1 * drawn((4, 1024), 1)
    expected = value + residual
    parts, left = codec.encode(value, residual)
    assert torch.equal(value, drawn((4, 1024)))
    assert left is not None
    assert left.data_ptr() == residual.data_ptr()
    found = Leaf(codec, value.shape, parts).read(0, 4096).view(4, 1024)
    torch.testing.assert_close(found + left, expected)


@pytest.mark.parametrize("rung", ["topk", "topk:64/4096/1"])
def test_zeros_are_never_sent(rung):
    codec = points.codec(rung)
    rows = torch.zeros(100, 4096)
    few = encode({"w": rows.index_fill(1, torch.tensor([5]), 1.0)}, codec)[0]["w"].numel()
    none = encode({"w": rows}, codec)[0]["w"].numel()
    assert none == 4 * 2 + 4 + 100, "scales alone"
    assert few - none < 100 * 2.5
    assert not codec.is_dense


def test_a_short_tensor_keeps_in_proportion():
    codec = points.codec("topk:64/4096")
    for numel, kept in [(1, 1), (64, 1), (65, 2), (256, 4), (4096, 64), (4097, 65)]:
        found, _ = decoded(codec, 1 + torch.arange(float(numel)))
        assert found.count_nonzero() == kept
        assert found[max(0, numel - 1)] != 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rung", [*points.CODECS, *RUNGS])
def test_what_is_not_finite_is_never_read_as_sound(rung, bad):
    for codec in filter(None, (points.codec(rung), points.codec(rung).squares)):
        for shape in [(1,), (100,), (3, 90001)]:
            value = drawn(shape).abs()
            value.view(-1)[-1] = bad
            leaf = Leaf(codec, value.shape, codec.encode(value, None)[0])
            assert codec.fault(leaf) or codec.cast
            assert not leaf.read(0, value.numel()).isfinite().all()


@pytest.mark.parametrize(
    "text", ["int4:60", "int8:4", "int2:524288", "topk:65/64", "topk:8/64/3", "topk:8/60",
             "uniform:100/4", "uniform:100/1", "uniform:1001/3", "uniform:100/257", "uniform:1/3",
             "uniform:1/9", "uniform:10/5", "uniform:99/3", "uniform:49/5"]
)  # fmt: skip
def test_numbers_that_do_not_go_together_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        points.codec(text)


def test_small_numbers_in_eight_bits_are_as_often_read_as_zero():
    """A first moment that is nearly zero beside larger ones is not raised to half a level."""
    value = torch.zeros(64)
    value[0], value[1:] = 1.0, 1e-4
    sent, _ = encode({"w": value}, points.codec("int8"))
    found = decode(sent, {"w": value}, points.codec("int8"))["w"]
    assert found[0] == pytest.approx(1.0, rel=0.05)
    assert torch.count_nonzero(found) == 1


@pytest.mark.parametrize("count", [1, 3, 64, 300, 480, 2048, 4096])
@pytest.mark.parametrize("has_nan", [False, True])
def test_the_largest_are_those_of_a_whole_search(count, has_nan):
    sizes = drawn((5, 4096)).abs()
    if has_nan:
        sizes[2, 77] = float("nan")
    found = sizes.gather(1, largest(sizes, count)).sort(dim=1, descending=True).values
    assert torch.equal(found.nan_to_num(9e9), sizes.topk(count, dim=1).values.nan_to_num(9e9))


def test_among_equal_ones_each_is_found_once():
    columns = largest(torch.ones(3, 4096), 64)
    assert all(len(set(row)) == 64 for row in columns.tolist())


@pytest.mark.parametrize("rung", ["uniform", "topk:8/64", "topk", "int4"])
def test_what_a_codec_makes_of_a_leaf_is_gone_when_its_end_has_been_read(rung):
    """So that a mean of many clients takes the memory of one leaf of each."""
    like = {"a": torch.empty(300), "b": torch.empty(7, 30)}
    sent, _ = encode({n: torch.randn(v.shape) for n, v in like.items()}, points.codec(rung))
    trees = [leaves(sent, like, points.codec(rung)) for _ in range(3)]
    whole = decode(sent, like, points.codec(rung))
    for _ in range(2):
        mean = weighted_mean(trees, [1.0, 1.0, 2.0])
        assert all(torch.allclose(mean[name], whole[name]) for name in like)
        assert [leaf.opened for tree in trees for leaf in tree.values()] == [{}] * 6
