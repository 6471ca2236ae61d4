"""From override strings to a validated `Config`: Hydra composes, pydantic types and checks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from photon.config.base import keys_of, section_type
from photon.config.compression import spelled_out
from photon.config.faults import first_fault, nearest, nearest_option
from photon.config.overrides import Overrides, override_strings, parse_override, quoted
from photon.config.schema import Config
from photon.config.standing import check_local_work, without_automatic
from photon.errors import ConfigError
from photon.files import parse_yaml

ConfigT = TypeVar("ConfigT", bound=Config)

STREAMS = "dataset/streams"
EVALUATION = ("icl_tasks_config", "eval_gauntlet_config")
GROUPS = ("llm_config", "dataset", STREAMS, "recipe", *EVALUATION)
FREE = ("llm_config.model.config_overrides.", "fl.strategy_kwargs.")
"""Below these, keys are those of somebody else's configuration, or outer optimizer."""
DEFAULT_OPTIONS = {"llm_config": "llama-tiny", "dataset": "embedded"}
FILE = (".yaml", ".yml")
"""What an option ends in that is the file of a preset of one's own."""
_NODE = "photon_defaults"
"""In Hydra's store, which others' configurations may be in too."""
_ONE_AT_A_TIME = RLock()
_DEFAULTS = [
    "_self_",
    *({group: option} for group, option in DEFAULT_OPTIONS.items()),
    *({f"{STREAMS}@dataset.{split}.streams": None} for split in ("train", "val")),
    *({group: "empty"} for group in EVALUATION),
    {"recipe": None},
]


def load_config(overrides: Overrides = ()) -> Config:
    """Compose the configuration from defaults, groups, a recipe and overrides, in that order.

    Args:
        overrides: Hydra override strings, `key=value`, `group=option`, `++key=value`, `~key`; one,
            several, or a mapping of keys to values. An option may be a file of one's own,
            `recipe=mine.yaml`.

    Raises:
        ConfigError: a file that cannot be read, an unknown key or option (the nearest known one is
            named), a value of the wrong type or out of range, or an override that does not parse.
    """
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [
        _lower_case_size(quoted(one))
        for text in without_automatic(as_overrides(overrides))
        for one in spelled_out(text)
    ]
    check_local_work(overrides)
    check_overrides(overrides)
    overrides = [_reaching_null_sections(_of_file(text)) for text in overrides]
    try:
        with _hydra():
            composed = compose(_NODE, overrides=list(overrides))
        values = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_first_line(error)) from error
    return checked(Config, _null_where_deleted(values, Config().model_dump(mode="json")))


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra with the defaults. A process has one: other threads wait, and a program that is an
    application of Hydra itself has its own again.
    """
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    with _ONE_AT_A_TIME:
        own = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_module("photon.config.groups", version_base="1.3"):
                _register()
                yield
        finally:
            GlobalHydra.instance().hydra = own


@cache
def _register() -> None:
    from hydra.core.config_store import ConfigStore

    node = {"defaults": _DEFAULTS, **Config().model_dump(mode="json")}
    ConfigStore.instance().store(name=_NODE, node=node)


def _of_file(text: str) -> str:
    """Read `recipe=mine.yaml` as the choice of a preset, which is put into Hydra's store."""
    from hydra.core.config_store import ConfigStore

    if not any(ending in text for ending in FILE):
        return text
    override = parse_override(text)
    group, path = override.key_or_group, None if override.is_delete() else override.value()
    if group not in GROUPS or not isinstance(path, str) or not path.endswith(FILE):
        return text
    values = json.dumps(_preset(group, path), default=str)  # a date is a text
    stem = re.sub("[^A-Za-z0-9_]", "_", Path(path).stem)
    name = f"{stem}-{hashlib.sha256(values.encode()).hexdigest()[:16]}"
    package = "_global_" if group == "recipe" else None
    ConfigStore.instance().store(group=group, name=name, node=json.loads(values), package=package)
    return f"{text.partition('=')[0]}={name}"


def _preset(group: str, path: str) -> dict[str, Any] | list[Any]:
    """What a file of a preset holds; a list of tasks is one of keys.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ConfigError(f"{group}={path}: cannot be read ({reason})") from error
    if isinstance(values, list) and group == "icl_tasks_config":
        return {"icl_tasks": values}
    if not isinstance(values, list if group == STREAMS else dict):
        what = "a list of clients' streams" if group == STREAMS else f"keys of {group}"
        raise ConfigError(f"{group}={path}: must hold {what}, got {values!r:.60}")
    return values


def as_overrides(given: Overrides) -> list[str]:
    """Override strings of what was given in one of the forms that `load_config` takes."""
    keys = set(known_keys())
    sections = {key.rpartition(".")[0] for key in keys}
    return override_strings(given, sections, keys.union(GROUPS))


def _lower_case_size(text: str) -> str:
    """Read `llm_config=mpt-125M` as `llm_config=mpt-125m`."""
    is_name = re.match(r"[+]*llm_config=", text) and not text.endswith(FILE)
    return text.lower() if is_name else text


def _reaching_null_sections(text: str) -> str:
    """Say by `++` what Hydra refuses of sections that are null: to set a key below, to delete."""
    key, _, value = text.partition("=")
    if not key.startswith(FREE) and key.lstrip("~") not in set(known_keys()) - set(GROUPS):
        return text
    if not key.startswith("~"):
        return f"++{text}"
    return text if value else f"++{key[1:]}=null"


def _null_where_deleted(values: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Read `~key` as `key=null`: the feature is off, not back at its default."""
    return {
        **values,
        **{
            name: (
                _null_where_deleted(values[name], default)
                if isinstance(default, dict) and isinstance(values.get(name), dict)
                else values.get(name)
            )
            for name, default in defaults.items()
        },
    }


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with some dotted keys set to what somebody has given.

    Raises:
        ConfigError: as `checked`.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *path, leaf = key.split(".")
        section = tree
        for part in path:
            if not isinstance(section.get(part), dict):
                section[part] = {}  # a section that was left out, or one of somebody else's
            section = section[part]
        section[leaf] = value
    return checked(Config, tree)


def checked(kind: type[ConfigT], values: Any) -> ConfigT:
    """Type and check plain values.

    Raises:
        ConfigError: naming the first offending key, what was wrong and what was given.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_fault(error, set(known_keys()))) from error


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the configuration, sections included."""
    for name, field in keys_of(model).items():
        yield prefix + name
        if (section := section_type(field.annotation)) is not None:
            yield from known_keys(section, f"{prefix}{name}.")


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse unknown keys before Hydra sees them, so that the message can name the nearest one.

    Raises:
        ConfigError: a string that is no override, or a key that does not exist.
    """
    known = {*known_keys(), *GROUPS}
    for text in overrides:
        override = parse_override(text)
        key = override.key_or_group
        if key not in known and not key.startswith(FREE):
            raise ConfigError(f"unknown key {key!r}; {nearest(key, known)}")
        is_choice = override.is_delete() or isinstance(override.value(), str | list | dict)
        if key in GROUPS and not is_choice:
            raise ConfigError(
                f"{text}: names no preset of {key}; `photon config {key}` lists those there are"
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if match := re.search(
        r"Could not find '([^']+)'\n.*?Available options in '[^']+':\n(.*?)\nConfig",
        str(error),
        re.S,
    ):
        options = match[2].split()
        hint = nearest_option(match[1], options)
        group, _, option = match[1].rpartition("/")
        return f"no such option {group}={option}; {hint}there are: {', '.join(options)}"
    return lines[0] if lines else type(error).__name__
