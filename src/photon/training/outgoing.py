"""What a client sends and keeps after its steps, made where its model lives."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.core.codec import Codec, Codecs
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


def faded(before: ClientState, round_number: int, decay: float) -> dict[str, Tensor]:
    """What is fed back of a residual, which fades with every round, of absence too."""
    factor = decay ** (round_number - before.round)
    if factor == 1.0:
        return dict(before.residual)
    return {name: value * factor for name, value in before.residual.items()}


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
    packer = _Packer(federation, due, before, offload, kept_codecs(federation))
    for tree, name, value in live:
        if tree != PARAMS:
            packer.moment(tree, name, value)
        elif name in layers.personal:
            packer.out.layers[name] = offload.take(value, value)
        elif name not in due.params:
            packer.leave_out(name, value)
        else:
            told = base[name].to(value.device, non_blocking=True)
            packer.keep_beginning(name, told, value)
            torch.sub(told, value, out=value)
            if share is not None:
                share.add_to(name, value)
            packer.pseudo_gradient(name, value)
    return packer.out


@dataclass(frozen=True, slots=True)
class _Packer:
    """Puts each live tensor of a client where it is sent or kept."""

    federation: Federation
    due: Due
    before: ClientState
    offload: Offload
    codecs: Codecs
    out: Outgoing = field(default_factory=Outgoing)

    def moment(self, tree: str, name: str, value: Tensor) -> None:
        """Send it if it is due; keep it if it is not, or if the client goes on from it."""
        is_due = tree in self.due.moments and name in self.due.params
        if is_due:
            sent = self.out.moments.setdefault(tree, {})
            self._encode(sent, name, value, self.codecs.of_moment(tree))
        if self.federation.goes_on or not is_due:
            self.out.kept.setdefault(tree, {})[name] = self.offload.take(value, value)

    def leave_out(self, name: str, value: Tensor) -> None:
        """Keep a parameter that is not due, for the round in which it is."""
        out, before = self.out, self.before
        out.ahead[name] = self.offload.take(value, value)
        for kept, known in ((out.residual, before.residual), (out.told, before.told)):
            if name in known:
                kept[name] = known[name]

    def keep_beginning(self, name: str, told: Tensor, value: Tensor) -> None:
        """Keep where a client that goes on begins its next round, and what it was told of in this
        one: the next time the difference to that says what the server's step was.
        """
        if not self.federation.goes_on:
            return
        due, last = self.due, self.before.told.get(name)
        start = going_on_from(told, value, due.part, last, due.again)
        self.out.ahead[name] = self.offload.take(start, value)
        if due.again:
            self.out.told[name] = self.offload.take(told, value)

    def pseudo_gradient(self, name: str, value: Tensor) -> None:
        """Send it, with what the codec lost of the last one; keep what it loses of this one."""
        last = self.before.residual.get(name)
        rest = self._encode(self.out.gradient, name, value, self.codecs.gradient, last)
        if rest is not None and self.federation.feeds_back:
            self.out.residual[name] = self.offload.take(rest, value)

    def _encode(
        self,
        sent: dict[str, Tensor],
        name: str,
        value: Tensor,
        codec: Codec,
        residual: Tensor | None = None,
    ) -> Tensor | None:
        """Add a tensor to what is sent; gives what is lost of it."""
        if codec.cast:
            sent[name] = self.offload.take(value, value, codec.cast)
            return None
        before = None if residual is None else residual.to(value.device)
        parts, rest = codec.encode(value, before)
        for part, its in parts.items():
            sent[f"{name}/{part}" if part else name] = self.offload.take(its, value)
        return rest
