"""What is wrong with a value, in one line that begins with its key; and what somebody may have
meant who wrote a key, or an option of a group, that does not exist.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from photon.config.base import KEYS, PATTERNS

OTHER_NAMES = {
    "batch_size": "llm_config.global_train_batch_size",
    "epochs": "fl.n_local_epochs",
    "fl.eval_interval": "fl.eval_period",
    "learning_rate": "llm_config.optimizer.lr",
    "max_seq_len": "llm_config.max_seq_len",
    "max_steps": "llm_config.max_duration",
    "model": "llm_config",
    "name": "run_uuid",
    "optimizer": "llm_config.optimizer.name",
    "output_dir": "photon.saving_path",
    "run_name": "run_uuid",
    "seq_len": "llm_config.max_seq_len",
    "sequence_length": "llm_config.max_seq_len",
    "steps": "llm_config.local_steps",
    "vocab_size": "llm_config.model.vocab_size",
    "warmup": "llm_config.scheduler.schedulers.lr.t_warmup",
    "warmup_steps": "llm_config.scheduler.schedulers.lr.t_warmup",
}
"""What keys are called elsewhere, and which of several without its section is meant most often."""
LEAST_LIKENESS = 0.5
"""Of a key that is worth naming."""
LEAST_OF_OPTION = 0.75
"""Options of one group resemble each other."""
ALL_KEYS = "`photon config --keys` lists all keys"


def nearest(key: str, known: set[str]) -> str:
    """A hint for somebody who wrote a key that does not exist.

    Its last part counts first, then its section: whoever forgot a section, or wrote another, knows
    the key's name.
    """
    in_python = ".".join(KEYS.get(part, part) for part in key.split("."))
    if in_python in known:
        return f"did you mean {in_python!r}? {ALL_KEYS}"
    section, _, leaf = key.rpartition(".")
    if key in OTHER_NAMES:
        return f"did you mean {OTHER_NAMES[key]!r}? {ALL_KEYS}"
    if leaf in OTHER_NAMES and (not section or leaf not in map(_leaf, known)):
        return f"did you mean {OTHER_NAMES[leaf]!r}? {ALL_KEYS}"

    def likeness(name: str) -> tuple[bool, bool, float]:
        parts = (name, key) if section else (_leaf(name), leaf)
        within = bool(section) and name.startswith(f"{section}.")
        return _leaf(name) == leaf, within, difflib.SequenceMatcher(None, *parts).ratio()

    near = max(sorted(known), key=likeness)
    same, _, ratio = likeness(near)
    return (f"did you mean {near!r}? " if same or ratio >= LEAST_LIKENESS else "") + ALL_KEYS


def nearest_option(given: str, options: Sequence[str]) -> str:
    """A hint for somebody who wrote `group/option` with an unknown option; or nothing."""
    near = difflib.get_close_matches(_last(given), options, n=1, cutoff=LEAST_OF_OPTION)
    return f"did you mean {near[0]!r}? " if near else ""


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


_KINDS = ("int", "float", "bool")
"""Members of a union, which pydantic names beside the key."""


def first_fault(error: ValidationError, known: Collection[str]) -> str:
    """The first offending key, what was wrong and what was given.

    Args:
        known: the keys that there are, with their dots.
    """
    found = error.errors()
    first, key = found[0], _key(found[0])
    reason = _reason(first, key, [one["msg"] for one in found if _key(one) == key])
    given = first.get("input")
    is_unknown = first["type"] == "extra_forbidden"
    section = key.rpartition(".")[0]  # of one within a list nothing is known
    if is_unknown and (not section or section in known):
        meant = nearest(key, set(known)).removesuffix(ALL_KEYS).rstrip()
        reason += f"; {meant}" if meant else ""
    told = is_unknown or "got" in reason or (isinstance(given, str) and repr(given) in reason)
    shown = "" if told or isinstance(given, (Mapping, BaseModel)) else f", got {_plain(given)}"
    return f"{_prefix(key, reason, known)}{reason}{shown}"


def _key(fault: Any) -> str:
    parts = [str(part) for part in fault["loc"]]
    return ".".join(part for part in parts if part not in _KINDS and "[" not in part)


def _prefix(key: str, reason: str, known: Collection[str]) -> str:
    """A section's fault begins with a key of it where that can be read on: `fl.quorum=9 is ...`."""
    word = re.match(r"[\w.]+(?=[= ])", reason)
    if word is not None and f"{key}.{word[0]}" in known:
        return f"{key}."
    return f"{key}: " if key else ""


def _reason(fault: Any, key: str, all_reasons: list[str]) -> str:
    if fault["type"] == "model_type":
        return f"is a section, whose keys take values: `photon config {key}` lists them"
    if fault["type"] == "extra_forbidden":
        return "is no key of the configuration"
    if fault["type"] == "string_pattern_mismatch":
        return PATTERNS.get(fault["ctx"]["pattern"], str(fault["msg"]))
    first, *others = (one.removeprefix("Value error, ") for one in all_reasons)
    expected = dict.fromkeys(one.removeprefix("Input should be ") for one in others)
    return ", or ".join([first, *expected])


def _plain(given: Any) -> str:
    """As it is written in an override."""
    return json.dumps(given) if given is None or isinstance(given, bool) else repr(given)
