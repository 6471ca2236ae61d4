"""The close of a round on a CPU and on a device, and what the codecs take there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from close import Round
from gpu_steps import timed

from photon.core.codec import Codec, decode, encode
from photon.core.tree import Tree, num_bytes
from photon.points import CODECS, codec

CPU = torch.device("cpu")


def closes(parameters: int, clients: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Of the same round on the CPU and on the device; what core does not do there is said."""
    opened = Round(parameters, clients)
    for where in dict.fromkeys((CPU, device)):
        record = {"where": where.type, "clients": clients, "bytes": opened.num_bytes}
        try:
            yield record | _close(on(opened, where), where)
        except (RuntimeError, TypeError, ValueError) as error:
            yield record | {"error": str(error).splitlines()[0]}


def _close(opened: Round, device: torch.device) -> dict[str, float]:
    """The second time: the first one makes the memory."""
    opened.close(opened.updates)
    seconds = timed(lambda: opened.close(opened.updates), device)
    plain = timed(opened.plain, device)
    return {"seconds": seconds, "plain_seconds": plain, "ratio": seconds / plain,
            "gigabytes_per_second": opened.num_bytes / seconds / 1e9}  # fmt: skip


def on(opened: Round, device: torch.device) -> Round:
    """The same round with its tensors there."""
    outer = {name: moved(tree, device) for name, tree in opened.state.outer.items()}
    params = moved(opened.state.params, device)
    opened.state = replace(opened.state, params=params, outer=outer)
    opened.updates = [replace(u, gradient=moved(u.gradient, device)) for u in opened.updates]
    return opened


def moved(tree: Tree, device: torch.device) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in tree.items()}


def codecs(like: Tree, device: torch.device) -> Iterator[dict[str, Any]]:
    """Every codec of an update of these shapes, with the residual that it leaves."""
    generator = torch.Generator().manual_seed(0)
    tree = {
        name: torch.empty(value.shape).normal_(std=1e-3, generator=generator).to(device)
        for name, value in like.items()
    }
    for name in CODECS:
        yield {"codec": name, "where": device.type, **_codec(tree, codec(name), device)}


def _codec(tree: Mapping[str, torch.Tensor], rung: Codec, device: torch.device) -> dict[str, Any]:
    sent, residual = encode(tree, rung)
    decode(sent, tree, rung)
    size = num_bytes(tree)
    seconds = timed(lambda: encode(tree, rung, residual), device)
    back = timed(lambda: decode(sent, tree, rung), device)
    return {
        "bytes": size,
        "sent_bytes": num_bytes(sent),
        "encode_seconds": seconds,
        "decode_seconds": back,
        "encode_gigabytes_per_second": size / seconds / 1e9,
        "decode_gigabytes_per_second": size / back / 1e9,
    }
