"""A masked update as what a container holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from photon.core.tree import Tree
from photon.errors import PayloadError
from photon.secure.fixed_point import LIMBS, TOKENS, Trees, form, ring
from photon.secure.member import Vectors
from photon.secure.terms import Terms

_KINDS = {4: torch.int32, 8: torch.int64}


def facts_of(terms: Terms, client: int, trees: Trees) -> dict[str, Any]:
    """What a masked update says of itself."""
    return {"session": terms.session, "round": terms.round, "client": client, "form": form(trees)}


def tensors_of(numbers: Vectors) -> dict[str, Tensor]:
    """The same bits as signed integers, which containers know, in the same memory."""
    return {
        name: torch.from_numpy(its.view(np.dtype(f"<i{its.itemsize}")))
        for name, its in numbers.items()
    }


def numbers_in(tensors: Tree, facts: Mapping[str, Any], expected: Mapping[str, Any]) -> Vectors:
    """The numbers of a masked update that has come, in the memory of the tensors.

    Args:
        expected: `facts_of` it.

    Raises:
        PayloadError: it is another one, or none.
    """
    if dict(facts) != dict(expected):
        odd = next((k for k in expected if facts.get(k) != expected[k]), "one too many")
        raise PayloadError(f"not a masked update of this session: {odd}")
    for name, its in tensors.items():
        if its.dim() != 1 or its.dtype != _KINDS[ring(name).itemsize]:
            raise PayloadError(f"not a masked update: {name[:80]} holds {its.dtype}")
    return {name: its.numpy().view(ring(name)) for name, its in tensors.items()}


def outline(like: Trees) -> dict[str, Tensor]:
    """The tensors of a masked update, without memory.

    Args:
        like: tensors with the names and shapes of an update.
    """
    sizes = {name: sum(value.numel() for value in tree.values()) for name, tree in like.items()}
    sizes[TOKENS] = LIMBS
    return {
        name: torch.empty(size, dtype=_KINDS[ring(name).itemsize], device="meta")
        for name, size in sizes.items()
    }
