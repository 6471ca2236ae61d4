"""What somebody may have meant who wrote a key, or an option of a group, that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from photon.config.base import KEYS

OTHER_NAMES = {
    "batch_size": "llm_config.global_train_batch_size",
    "epochs": "fl.n_local_epochs",
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
