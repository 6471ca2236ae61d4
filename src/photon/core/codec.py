"""How tensors travel: what is sent for each, and how whoever gets it reads it.

A sent tree is flat: `w` for a tensor that is sent as one, `w/codes` and `w/scale` for one in parts.
The reader knows the shapes that they stand for, so that nothing which arrives is believed.

What a codec loses is its residual. Whoever encodes keeps it, as part of the state that a round
commits, and adds it to what is sent next: error feedback (Seide et al. 2014; Karimireddy et al.
2019, arXiv:1901.09847).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from photon.core.tree import Tree, mismatch

Parts = dict[str, Tensor]
"""What is sent for one tensor, by name; one that is sent as one has the name `""`."""


@dataclass(frozen=True)
class Leaf:
    """An encoded tensor.

    Attributes:
        parts: what was sent.
        shape: that it stands for.
        opened: for the codec: what it has made of the parts, to be read in pieces; gone with the
            last one.
    """

    codec: Codec
    shape: torch.Size
    parts: Mapping[str, Tensor]
    opened: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self, start: int, stop: int) -> Tensor:
        """Elements of the flattened tensor from `start` up to `stop`, which is inside."""
        found = self.codec.read(self, start, stop)
        if stop == self.numel():  # trees of many clients are read side by side, leaf by leaf
            self.opened.clear()
        return found


class Codec(NamedTuple):
    """A pair of pure functions, each of one tensor.

    `encode(value, residual)` gives the parts that are sent and the new residual (None: nothing is
    fed back), from a float32 tensor and the residual before (None: there is none). Names, shapes
    and types of the parts depend on the shape of `value` alone, on the meta device too: forecasts
    and the gate learn from it what must be sent. The residual is given away: the new one may be in
    its memory.

    A part whose length depends on the values is flat, and in `most`; its length on the meta device
    is what is expected of it.

    `read(leaf, start, stop)` gives elements of the flattened tensor, in any float type; the parts
    of `leaf` have those names, shapes and types, and passed `fault`. What it has made of them may
    stay in `leaf.opened` until the end has been read.

    `fault(leaf)` says what `read` cannot read in the values of the parts, or None.

    `cast` is the type in which each element is sent for itself, of a codec that does nothing else.

    `squares` is the codec for means of squares, in the place of this one: they are never negative,
    and a small one that is read as zero makes a step without bound. None: this one does it well.

    `most(shape)` gives the greatest length of each part whose length depends on the values.

    `gain` is the most by which feedback lets what is sent once outgrow what was meant to be, of
    values whose shape stays alike from round to round.

    `is_dense` is false where most elements are read as zeros: of no use for a mean that is not fed
    back, such as that of moments.
    """

    encode: Callable[[Tensor, Tensor | None], tuple[Parts, Tensor | None]]
    read: Callable[[Leaf, int, int], Tensor]
    fault: Callable[[Leaf], str | None] = lambda leaf: None
    cast: torch.dtype | None = None
    squares: Codec | None = None
    most: Callable[[torch.Size], Mapping[str, int]] = lambda shape: {}
    gain: float = 1.0
    is_dense: bool = True


def _cast(dtype: torch.dtype) -> Codec:
    """Rounds to nearest. In bf16 0.1-0.2 % relative error remain, whatever a tensor's size."""
    return Codec(
        encode=lambda value, residual: ({"": value.to(dtype)}, None),
        read=lambda leaf, start, stop: leaf.parts[""].view(-1)[start:stop],
        cast=dtype,
    )


BF16 = _cast(torch.bfloat16)
FP32 = _cast(torch.float32)
# A mean of squares may well be too small for the range of fp16.
FP16 = _cast(torch.float16)._replace(squares=BF16)

SQUARES = ("exp_avg_sq",)
"""Moments that are means of squares, by the names of `torch.optim`."""


@dataclass(frozen=True, slots=True)
class Codecs:
    """What codec is for what.

    Attributes:
        gradient: of pseudo-gradients.
        moments: of inner moments, averaged or to be averaged.
        parameters: of the difference between parameters and what clients hold of them; None:
            clients get the parameters whole.
    """

    gradient: Codec = FP32
    moments: Codec = FP32
    parameters: Codec | None = None

    def of_moment(self, name: str) -> Codec:
        """That of a moment: for squares, the form that it has for them."""
        return (self.moments.squares or self.moments) if name in SQUARES else self.moments


def encode(
    tree: Tree, codec: Codec, residual: Tree | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is sent for a tree, and the residual of each tensor that has one.

    Args:
        residual: that of the last time; it may be written over.
    """
    sent: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}
    for name, value in tree.items():
        parts, rest = codec.encode(value.detach(), (residual or {}).get(name))
        sent |= {f"{name}/{part}" if part else name: its for part, its in parts.items()}
        if rest is not None:
            left[name] = rest
    return sent, left


def layout(like: Tree, codec: Codec) -> dict[str, Tensor]:
    """What is sent for float32 tensors of these shapes, without memory."""
    return encode({n: torch.empty(v.shape, device="meta") for n, v in like.items()}, codec)[0]


def leaves(sent: Tree, like: Tree, codec: Codec) -> dict[str, Leaf]:
    """What was sent, to be read; `like` has the shapes that it stands for, and perhaps others."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in sent.items():
        name, _, part = key.partition("/")
        parts.setdefault(name, {})[part] = value
    return {name: Leaf(codec, like[name].shape, its) for name, its in parts.items()}


def read(sent: Tree, like: Tree, codec: Codec) -> dict[str, Tensor]:
    """As `decode`, in any float type: of a cast, what was sent itself."""
    return {
        name: leaf.read(0, leaf.numel()).view(leaf.shape)
        for name, leaf in leaves(sent, like, codec).items()
    }


def decode(sent: Tree, like: Tree, codec: Codec) -> dict[str, Tensor]:
    """float32 tensors from those that were sent; `like` as for `leaves`."""
    return {name: value.to(torch.float32) for name, value in read(sent, like, codec).items()}


def form_fault(
    sent: Tree, like: Tree, codec: Codec, opened: dict[str, Leaf] | None = None
) -> str | None:
    """Why what arrived for tensors of these names and shapes cannot be read, or None.

    Args:
        opened: gets what is found sound, to be read without being opened again.
    """
    expected = layout(like, codec)
    for key, most in _longest(like, codec).items():
        own = sent.get(key)
        if own is not None and own.dim() == 1 and own.numel() <= most:
            expected[key] = expected[key].new_empty(own.shape)
    if reason := mismatch(sent, expected):
        return reason
    for name, value in sent.items():
        if value.dtype != expected[name].dtype:
            return f"{name} holds {value.dtype}, expected {expected[name].dtype}"
    for name, leaf in leaves(sent, like, codec).items():
        if reason := codec.fault(leaf):
            return f"{name}: {reason}"
        if opened is not None:
            opened[name] = leaf
    return None


def _longest(like: Tree, codec: Codec) -> dict[str, int]:
    """The greatest length of each part whose length depends on the values."""
    return {
        f"{name}/{part}" if part else name: most
        for name, value in like.items()
        for part, most in codec.most(value.shape).items()
    }
