"""What a client sends and keeps after its steps, made where its model lives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from photon.config.federation import Federation
from photon.core.codec import Codec
from photon.core.gate import GRADIENT
from photon.core.messages import Moments
from photon.core.tree import Tree
from photon.training.layers import LayerRoles
from photon.training.loop import PARAMS
from photon.training.offload import Offload
from photon.training.outline import codec_of

Live = Iterable[tuple[str, str, Tensor]]
"""Tree (`PARAMS`, or a moment), name, and a tensor of a trainer that will be written to again."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Tensors on the host, once they have landed.

    Attributes:
        gradient, moments: encoded; they are sent.
        residual: of each of these trees, what the codec has lost.
        layers, kept: parameters and moments that stay with the client.
    """

    gradient: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    residual: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    layers: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def leaving(
    federation: Federation, layers: LayerRoles, params: Tree, moments: Moments
) -> dict[str, Tree]:
    """The live trees that leave the device, each in the model's order."""
    trained = {n: v for n, v in params.items() if n not in layers.frozen}
    wanted = federation.averages_moments or federation.keeps_optimizer
    return {PARAMS: trained, **(moments if wanted else {})}


@torch.no_grad()
def outgoing(
    federation: Federation,
    layers: LayerRoles,
    base: Tree,
    live: Live,
    residual: Mapping[str, Tree],
    offload: Offload,
) -> Outgoing:
    """Encode the pseudo-gradient of the shared layers, and the moments if they are averaged.

    Args:
        base: parameters before training.
        live: of `leaving`; the shared layers become the pseudo-gradient, in place.
        residual: that of the client's last update.
    """
    out, codec = Outgoing(), codec_of(federation)
    for tree, name, value in live:
        if tree == PARAMS and name in layers.personal:
            out.layers[name] = offload.take(value, value)
        elif tree == PARAMS:
            torch.sub(base[name].to(value.device, non_blocking=True), value, out=value)
            _encode(out, GRADIENT, out.gradient, name, value, codec, residual, offload)
        elif federation.averages_moments:
            sent = out.moments.setdefault(tree, {})
            _encode(out, tree, sent, name, value, codec, residual, offload)
        else:
            out.kept.setdefault(tree, {})[name] = offload.take(value, value)
    return out


def _encode(
    out: Outgoing,
    tree: str,
    sent: dict[str, Tensor],
    name: str,
    value: Tensor,
    codec: Codec,
    residual: Mapping[str, Tree],
    offload: Offload,
) -> None:
    if codec.cast:
        sent[name] = offload.take(value, value, codec.cast)
        return
    before = residual.get(tree, {}).get(name)
    before = None if before is None else before.to(value.device)
    parts, rest = codec.encode(value, before)
    for part, its in parts.items():
        sent[f"{name}/{part}" if part else name] = offload.take(its, value)
    if rest is not None:
        out.residual.setdefault(tree, {})[name] = offload.take(rest, value)
