"""What a run needs before it starts: its model's architecture, where it begins, its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from photon.config.compose import ConfigT, load_config, with_values
from photon.config.dataset import ClientStreams, EmbeddedCorpus, StorageConfig
from photon.config.explain.idle import Course, idle_overrides, note_idle
from photon.config.model import ModelConfig
from photon.config.schema import Config
from photon.data.manifest import MANIFEST, clients_of, read_whole
from photon.data.prepare.embedded import embedded_settings, prepare_embedded
from photon.data.read.verify import require_tokenizer
from photon.data.tokenizer import tokenizer_digest
from photon.errors import ConfigError, DataError
from photon.model.causal_lm import read_config
from photon.run.run_data import VALIDATION, RunData, find_data
from photon.run.run_tokens import encoder_of_data
from photon.say import Say


def architecture_of(model: ModelConfig, vocabulary: int | None) -> ModelConfig:
    """The model with the config.json that `hf_causal_lm` names, and another size of the vocabulary,
    in it (`fl.resize_vocab`).
    """
    if model.name == "hf_causal_lm":
        model = read_config(model)
    if vocabulary is not None:
        model = model.but(vocab_size=vocabulary, hf_config=_resized(model, vocabulary))
    return model


def _resized(model: ModelConfig, size: int) -> dict[str, Any]:
    if model.hf_config and "vocab_size" not in model.hf_config:
        raise ConfigError(
            f"fl.resize_vocab={size}: the config.json of {model.hf_folder} "
            "has no vocab_size of its own to change; leave the key out"
        )
    return {**model.hf_config, **({"vocab_size": size} if model.hf_config else {})}


def config_of_run(
    overrides: Sequence[str], run: Course, say: Say, *, elsewhere: bool = False
) -> Config:
    """The configuration that a command or a call composes: what it gives in vain is said, what it
    leaves to the data is taken from there.

    Raises:
        ConfigError: as `load_config`.
        DataError: as `fit_to_data`.
    """
    config = load_config(overrides)
    note_idle(idle_overrides(config, overrides, run))
    return fit_to_data(config, overrides, say, elsewhere=elsewhere)


def fit_to_data(
    config: Config, overrides: Sequence[str], say: Say, *, elsewhere: bool = False
) -> Config:
    """Take from prepared data what the user did not give: vocabulary, row length, clients.

    Args:
        overrides: those that the configuration was composed of. What is in one of them, or is not
            the default (a preset set it), was given.
        elsewhere: other machines train; the data here says nothing of their clients.

    Raises:
        DataError: there is no such data.
    """
    train = config.data.train
    if train.root is None and train.store is None:
        return config
    _, data = find_data(train, config.federation.population)
    default, current = load_config().values_by_key(), config.values_by_key()
    named = {text.lstrip("+~").partition("=")[0] for text in overrides}
    given = named | {key for key, value in current.items() if value != default.get(key)}
    found = {
        key: value
        for key, value in _facts_for(
            data, config.inner.model, train.streams, config.begins_elsewhere, elsewhere
        ).items()
        if key not in given and value != current[key]
    }
    if not found:
        return config
    say("from data   " + ", ".join(f"{key}={value}" for key, value in found.items()))
    return with_values(config, found)


def _facts_for(
    data: dict[str, Any],
    model: ModelConfig,
    streams: Sequence[ClientStreams] | None,
    begins_elsewhere: bool,
    elsewhere: bool,
) -> dict[str, int]:
    """What data says of a run; not of a model that begins with parameters that are there."""
    settings = data["settings"]
    length = min(settings["sequence_length"], model.max_positions or (1 << 30))
    facts = {"llm_config.max_seq_len": length}
    if model.name != "hf_causal_lm" and not begins_elsewhere:
        facts["llm_config.model.vocab_size"] = settings["vocab_size"]
    if not elsewhere:
        facts["fl.n_total_clients"] = len(streams) if streams else len(clients_of(data))
    return facts


def prepare(
    config: ConfigT, say: Say, needed: Collection[int] | None = None
) -> tuple[ConfigT, dict[str, Any]]:
    """Find the prepared data, or prepare the embedded corpus on first use.

    Args:
        needed: clients whose data must be there; None: all. A server that trains elsewhere needs
            none, a node its own.

    Returns:
        The configuration with the data folder filled in, and the data's manifest.

    Raises:
        DataError: the folder is missing, or holds fewer clients than configured, rows that cannot
            be cut to the model's length, or tokens of another tokenizer; or the store that holds it
            does not answer.
    """
    clients, length = config.federation.population, config.inner.row_length
    train, validation, embedded = config.data.train, config.data.validation, config.data.embedded
    if train.root is None and train.store is None:
        root, manifest = embedded_data(embedded, clients, length, say)
    else:
        root, manifest = find_data(train, clients)
    found: dict[str, Any] = {"train": {"root": str(root)}}
    if validation.root or validation.store:
        found["validation"] = {"root": str(find_data(validation, clients)[0])}
    config = config.but(data=found)
    data, here = (
        RunData.of(*config.reading),
        range(clients) if needed is None else needed,
    )
    _check_data(data, manifest, here, clients)
    if length > manifest["settings"]["sequence_length"]:
        own = ("train", VALIDATION) if config.federation.validates_clients else ("train",)
        common = () if needed else (VALIDATION,)
        for part in (*common, *(f"client_{client}/{name}" for client in here for name in own)):
            data.rows(part)  # refused if they were prepared in shorter ones
    return config, manifest


def embedded_data(
    corpus: EmbeddedCorpus, clients: int, length: int, say: Say
) -> tuple[Path, dict[str, Any]]:
    """Prepare the embedded corpus below `data`, on first use; its root and its manifest.

    Args:
        length: of a row, in tokens.
    """
    settings = embedded_settings(corpus, clients, length)
    address = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    root = Path("data").resolve() / f"embedded-{clients}-clients-{address}"
    return root, prepare_embedded(root, corpus, clients, length, say)


def require_data(train: StorageConfig, clients: Collection[int]) -> None:
    """Refuse a data folder that is none of these clients', before a node offers them.

    Of a tree of data sets, which of them it is says the server: how many clients there are.

    Raises:
        DataError: nothing is prepared there, or not for these clients.
    """
    if train.root is None or train.store is not None:
        return  # comes on first use
    root = Path(train.root)
    if train.streams is not None:
        prepared = range(len(train.streams))
    elif not (root / MANIFEST).exists() and any(root.glob(f"**/{MANIFEST}")):
        return
    else:
        prepared = clients_of(read_whole(root))
    if missing := sorted(set(clients) - set(prepared)):
        has = "dataset.train.streams says nothing of" if train.streams else "was not prepared for"
        there = ",".join(map(str, sorted(set(clients) & set(prepared))))
        instead = f"host only those that are there (--clients {there}), or " if there else ""
        raise DataError(
            f"{root}: {has} client {missing[0]}; {instead}`photon prepare --clients` makes data"
        )


def _check_data(
    data: RunData, manifest: dict[str, Any], needed: Collection[int], population: int
) -> None:
    root, streams = data.root, data.data.train.streams
    require_tokenizer(root, manifest, tokenizer_digest(data.tokenizer))
    encoder_of_data(data)  # known, or refused before anything is trained
    settings = manifest["settings"]
    prepared = clients_of(manifest) if streams is None else range(len(streams))
    if missing := sorted(set(needed) - set(prepared)):
        raise DataError(
            f"{root}: {'streams' if streams else 'prepared'} for {len(prepared)} clients "
            f"({prepared[0]} to {prepared[-1]}), but client {missing[0]} is needed "
            f"(fl.n_total_clients={population})"
        )
    length = settings["sequence_length"]
    if length != data.row_length and not settings.get("wrap", True):
        raise DataError(
            f"{root}: prepared with rows of {length} that end with the documents, but "
            f"llm_config.max_seq_len={data.row_length}"
        )
    if settings["vocab_size"] > data.vocabulary:
        raise DataError(
            f"{root}: its tokenizer has {settings['vocab_size']} tokens, more than "
            f"llm_config.model.vocab_size={data.vocabulary}; set "
            f"llm_config.model.vocab_size={settings['vocab_size']}"
        )
