"""How a run's text was tokenised: found before it trains, kept in run.json, read from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from photon.data.manifest import read_manifest
from photon.data.prepare.encode import Encoder
from photon.data.tokenization import KEY, Tokenization, of_data, of_foreign, resolved
from photon.data.tokenizer import load_tokenizer, tokenizer_digest
from photon.errors import CorruptCheckpoint, DataError, PhotonNote, warn
from photon.run.run_data import RunData, homes


def encoder_of_data(data: RunData) -> Encoder:
    """The encoder of a run's data.

    Raises:
        DataError: nothing says what sets documents apart, or the streams' data sets differ in it.
    """
    tokenizer = load_tokenizer(data.tokenizer)
    places = homes(data.data.train)
    found = {home: of_data(read_manifest(home), tokenizer, home) for home in places}
    for home, facts in found.items():
        if facts != found[places[0]]:
            raise DataError(
                f"{home}: its documents are set apart otherwise than those of {places[0]} "
                f"({facts.as_json()}, not {found[places[0]].as_json()}); prepare both alike"
            )
    return Encoder(tokenizer, found[places[0]])


def tokenization_facts(facts: Tokenization, tokenizer: Path) -> dict[str, Any]:
    """What run.json says of the tokenisation.

    Args:
        tokenizer: the file.
    """
    return {KEY: facts.as_json(), "tokenizer": tokenizer_digest(tokenizer)}


def encoder_of_run(run: Path, facts: Mapping[str, Any]) -> Encoder:
    """The tokenizer of a run folder, used as its model was trained with it.

    Args:
        facts: of run.json.

    Raises:
        DataError: no tokenizer, or an old run does not tell what sets documents apart.
        CorruptCheckpoint: the tokenizer is not that of the run.
    """
    path = run / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    if facts.get("tokenizer", digest := tokenizer_digest(path)) != digest:
        raise CorruptCheckpoint(
            f"{path}: is not the tokenizer that the model was trained with ({digest}, run.json "
            f"says {facts['tokenizer']}); put the right one back"
        )
    if KEY in facts:
        return Encoder(tokenizer, Tokenization.from_json(facts[KEY], run / "run.json"))
    old = of_foreign(tokenizer, facts["end"]) if "end" in facts else resolved(tokenizer)
    warn(
        f"{run}: its run.json is of an earlier version and does not say how its text was "
        f"tokenised; a text is taken to end with {tokenizer.id_to_token(old.end)!r}",
        PhotonNote,
    )
    return Encoder(tokenizer, old)
