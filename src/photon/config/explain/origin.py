"""Where each value of a composed configuration comes from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from photon.config.base import keys_of
from photon.config.compose import DEFAULT_OPTIONS, GROUPS, load_config
from photon.config.compression import CODEC_KEYS, codec_of, ladder
from photon.config.conflicts import conflict_lines
from photon.config.explain.reference import find_keys, presets, shown
from photon.config.merging import aggregations
from photon.config.schema import Config
from photon.config.standing import standing_of
from photon.errors import ConfigError

COMMAND_LINE = "command line"


def origins(overrides: Sequence[str]) -> dict[str, str]:
    """What gave each leaf its value, where that is not the default of the configuration.

    Args:
        overrides: as for `load_config`.

    Returns:
        Dotted key -> `command line`, `recipe=NAME` or `llm_config=NAME` and so on: whoever was the
        last to give it another value.
    """
    found: dict[str, str] = {}
    values = Config().values_by_key()
    for name, given in _layers(overrides):
        now = _values(given)
        if now is None:
            continue
        changed = [key for key in now if now[key] != values.get(key)]
        found |= dict.fromkeys(changed, name)
        values = now
    return found


def _values(overrides: Sequence[str]) -> dict[str, Any] | None:
    """All leaves; None where only later overrides make it a valid configuration."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_config(overrides).values_by_key()
        except ConfigError:
            return None


def _layers(overrides: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(name, all overrides up to it), in the order in which Hydra applies them."""
    groups = _groups(overrides)
    given: list[str] = []
    for group, option in groups.items():
        given = [*given, f"{group}={option}"]
        yield f"{group}={option}", given
    yield COMMAND_LINE, list(overrides)


def _groups(overrides: Sequence[str]) -> Mapping[str, str]:
    """Groups and their options, the recipe last."""
    chosen: dict[str, str] = dict(DEFAULT_OPTIONS)
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key.partition("@")[0] in GROUPS and value:
            chosen[key] = value
    recipe = {key: chosen.pop(key) for key in list(chosen) if key == "recipe"}
    return chosen | recipe


def annotated(overrides: Sequence[str]) -> str:
    """The composed configuration as YAML; a comment says what set a value."""
    from omegaconf import OmegaConf

    config = load_config(overrides)
    text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
    found, path, lines = origins(overrides), [], []
    for line in text.splitlines():
        stripped = line.lstrip()
        if stripped.startswith("- "):
            lines.append(line)
            continue
        depth = (len(line) - len(stripped)) // 2
        path = [*path[:depth], stripped.partition(":")[0]]
        origin = found.get(".".join(path))
        lines.append(f"{line}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def explained(key: str, overrides: Sequence[str]) -> str:
    """A key, or each key of a section: its meaning, type, default, and value here; for a group its
    presets.

    Raises:
        ConfigError: no such key.
    """
    if automatic := standing_of(key):
        return f"{key}\n    needs no setting: {automatic.note}"
    if key in ("fl.compression", *CODEC_KEYS):
        if overrides:  # codecs are torch's, which takes a moment
            _check_codecs(overrides)
        of_parameter = "codecs, NAME:ARGUMENTS, and their bits of a parameter:"
        return "\n".join([*_keys(key, overrides), of_parameter, *ladder()])
    rows = _keys(key, overrides)
    if key in GROUPS:
        rows = [*_presets(key), *rows]
    if key == "fl.aggregation":
        rows += ["aggregations, NAME:ARGUMENTS, and the clients that may lie:", *aggregations()]
    if conflicts := list(conflict_lines(_option(key))):
        rows += ["not together with:", *conflicts]
    return "\n".join(rows)


def _check_codecs(overrides: Sequence[str]) -> None:
    """Raises:
    ConfigError: as `codec_of`.
    """
    values = load_config(overrides).values_by_key()
    for key in CODEC_KEYS:
        codec_of(key, values[key])


def _option(key: str) -> str:
    """The name in the table of conflicts of an option of `fl`, or of a key below it."""
    section, *below = key.split(".")
    return below[0] if section == "fl" and below else ""


def _presets(group: str) -> Iterator[str]:
    default = DEFAULT_OPTIONS.get(group)
    yield f"{group}=PRESET, or FILE.yaml" + (f"  (default {default})" if default else "")
    yield from (f"    {name:<30} {says}" for name, says in presets(group).items())


def _keys(key: str, overrides: Sequence[str]) -> list[str]:
    sections = keys_of(Config)
    chosen = [] if key in GROUPS and key not in sections else find_keys(key)
    values, found = load_config(overrides).values_by_key(), origins(overrides)
    parts = []
    for one in chosen:
        parts.append(f"{one.key}  ({one.type}; default {one.default})\n    {one.meaning}")
        if one.key in found:
            parts.append(f"    here {shown(values[one.key])}, from {found[one.key]}")
    return parts
