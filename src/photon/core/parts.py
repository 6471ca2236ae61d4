"""States and messages as named tensors and facts, which a container holds, and back.

A field whose type has tensors in it becomes tensors, `field/name` or `field/moment/name`; any other
becomes a fact, a JSON value. So what is added to a state is saved, sent and resumed as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

from photon.core.tree import Tree
from photon.errors import PayloadError

T = TypeVar("T")
STAYS = {"stays": True}
"""Metadata of a field that is neither saved nor sent."""


def parts_of(state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a dataclass."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for key, hint in _hints(type(state)).items():
        if _levels(hint):
            tensors |= _flat(key, getattr(state, key))
        else:
            facts[key] = _plain(getattr(state, key))
    return tensors, facts


def from_parts(kind: type[T], tensors: Tree, facts: Mapping[str, Any]) -> T:
    """The value that `parts_of` took apart; tensors and facts keep their order.

    Raises:
        PayloadError: a tensor or a fact that the kind does not have, or lacks.
    """
    hints, fault = _hints(kind), f"not the parts of {kind.__name__}"
    values: dict[str, Any] = {key: {} for key, hint in hints.items() if _levels(hint)}
    for name, value in tensors.items():
        field, *keys = name.split("/", _levels(hints.get(name.partition("/")[0])))
        if field not in values or len(keys) != _levels(hints[field]) or not all(keys):
            raise PayloadError(f"{fault}: tensor {name[:80]!r}")
        tree = values[field]
        for key in keys[:-1]:
            tree = tree.setdefault(key, {})
        tree[keys[-1]] = value
    if odd := facts.keys() - (hints.keys() - values.keys()):
        raise PayloadError(f"{fault}: fact {min(odd)[:80]!r}")
    try:
        return kind(**values, **{key: _restored(hints[key], fact) for key, fact in facts.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise PayloadError(f"{fault}: {error}") from None


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Types of the fields that are saved and sent."""
    stay = {one.name for one in fields(kind) if one.metadata == STAYS}
    return {name: hint for name, hint in get_type_hints(kind).items() if name not in stay}


def _levels(hint: Any) -> int:
    """Names that lead to a tensor of this type: 1 in a tree, 2 in moments; 0 if it has none."""
    inner = next(iter(get_args(hint)[1:]), None)
    deeper = 0 if inner is None else _levels(inner)
    return 1 if inner is Tensor else deeper and deeper + 1


def _flat(prefix: str, tree: Mapping[str, Any]) -> dict[str, Tensor]:
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        key = f"{prefix}/{name}"
        flat |= {key: value} if isinstance(value, Tensor) else _flat(key, value)
    return flat


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _restored(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        hints = _hints(hint)
        return hint(**{key: _restored(hints.get(key), one) for key, one in value.items()})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(_restored(arguments[0], one) for one in value)
    if origin is Mapping:
        return {arguments[0](key): _restored(arguments[1], one) for key, one in value.items()}
    return value
