"""What a client sends and keeps after its steps, made where its model lives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.core.codec import Codec
from photon.core.messages import ClientState, Moments
from photon.core.tree import Tree
from photon.privacy.share import Share
from photon.training.going_on import going_on_from
from photon.training.layers import LayerRoles
from photon.training.loop import PARAMS
from photon.training.offload import Offload
from photon.training.outline import kept_codecs

Live = Iterable[tuple[str, str, Tensor]]
"""Tree (`PARAMS`, or a moment), name, and a tensor of a trainer that will be written to again."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Tensors on the host, once they have landed.

    Attributes:
        gradient, moments: encoded; they are sent.
        residual: what the codec has lost of the pseudo-gradient.
        layers, kept: parameters and moments that stay with the client.
        ahead: what the client goes on from.
        told: what it was told of, where it will suppose the server's last step.
    """

    gradient: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    residual: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ahead: dict[str, Tensor] = field(default_factory=dict)
    told: dict[str, Tensor] = field(default_factory=dict)


def leaving(
    federation: Federation, layers: LayerRoles, params: Tree, moments: Moments
) -> dict[str, Tree]:
    """The live trees that leave the device, each in the model's order."""
    trained = {n: v for n, v in params.items() if n not in layers.frozen}
    wanted = federation.averages_moments or federation.keeps_optimizer
    return {PARAMS: trained, **(moments if wanted else {})}


class Due(NamedTuple):
    """What is sent in a round.

    Attributes:
        params: names of the parameters whose pseudo-gradient is.
        moments: those of them that are averaged.
        part: of the pseudo-gradient, that the client goes on with.
        again: of the server's last step, that it goes on with.
    """

    params: Collection[str]
    moments: Collection[str]
    part: float = 1.0
    again: float = 0.0


@torch.no_grad()
def outgoing(
    federation: Federation,
    layers: LayerRoles,
    base: Tree,
    live: Live,
    due: Due,
    before: ClientState,
    offload: Offload,
    share: Share | None,
) -> Outgoing:
    """Encode the pseudo-gradient of what is due, and the moments that are averaged.

    Args:
        base: parameters that the client has been told of.
        live: of `leaving`; the shared layers become the pseudo-gradient, in place.
        before: the client's state before the round; its residual, which is fed back, may be written
            over.
        share: what is done to the pseudo-gradient before it is encoded; None: nothing.
    """
    out, codecs, goes_on = Outgoing(), kept_codecs(federation), federation.goes_on
    for tree, name, value in live:
        if tree == PARAMS and name in layers.personal:
            out.layers[name] = offload.take(value, value)
        elif tree == PARAMS:
            if name not in due.params:
                _leave_out(out, name, value, before, offload)
                continue
            told = base[name].to(value.device, non_blocking=True)
            if goes_on:
                _go_on(out, name, told, value, due, before.told.get(name), offload)
            _pseudo_gradient(name, told, value, share)
            last = before.residual.get(name)
            rest = _encode(out.gradient, name, value, codecs.gradient, last, offload)
            if rest is not None and federation.feeds_back:
                out.residual[name] = offload.take(rest, value)
        else:
            is_due = tree in due.moments and name in due.params
            if is_due:
                sent = out.moments.setdefault(tree, {})
                _encode(sent, name, value, codecs.of_moment(tree), None, offload)
            if goes_on or not is_due:
                out.kept.setdefault(tree, {})[name] = offload.take(value, value)
    return out


def _leave_out(
    out: Outgoing, name: str, value: Tensor, before: ClientState, offload: Offload
) -> None:
    """Keep what is not due, for the round in which it is."""
    out.ahead[name] = offload.take(value, value)
    for kept, known in ((out.residual, before.residual), (out.told, before.told)):
        if name in known:
            kept[name] = known[name]


def _go_on(
    out: Outgoing,
    name: str,
    told: Tensor,
    value: Tensor,
    due: Due,
    last: Tensor | None,
    offload: Offload,
) -> None:
    """Keep where the client goes on from, and what says the next time what the server's step was.

    Args:
        last: what it was told of a round earlier, if it was there.
    """
    start = going_on_from(told, value, due.part, last, due.again)
    out.ahead[name] = offload.take(start, value)
    if due.again:
        out.told[name] = offload.take(told, value)


def _pseudo_gradient(name: str, told: Tensor, value: Tensor, share: Share | None) -> None:
    """Put it in the place of the client's own parameters."""
    torch.sub(told, value, out=value)
    if share is not None:
        share.add_to(name, value)


def _encode(
    sent: dict[str, Tensor],
    name: str,
    value: Tensor,
    codec: Codec,
    residual: Tensor | None,
    offload: Offload,
) -> Tensor | None:
    """Add a tensor to what is sent; gives what is lost of it."""
    if codec.cast:
        sent[name] = offload.take(value, value, codec.cast)
        return None
    before = None if residual is None else residual.to(value.device)
    parts, rest = codec.encode(value, before)
    for part, its in parts.items():
        sent[f"{name}/{part}" if part else name] = offload.take(its, value)
    return rest
