"""The README of an exported model: what it was trained on, for how long, and how good it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from photon.chain.verify import link_of, signer_of
from photon.core.tree import num_elements
from photon.hub.scored import read_results
from photon.privacy.accounting import count_of
from photon.privacy.terms import price_of, price_of_updates
from photon.run import artifact
from photon.run.kinds import IMPORTED
from photon.run.run_folder import read_run
from photon.run.saved_model import SavedModel
from photon.run.trackers import read_lines

MOST_ODDS = 7.0
"""Epsilon whose factor is written as a number: a thousand."""


def model_card(saved: SavedModel) -> str:
    """Markdown with the run's facts; what is not known is left out."""
    name = saved.config.name or saved.run.resolve().name
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [photon]\n---\n",
        f"# {name}\n",
        "A language model trained with Photon, exported for `transformers`.\n",
        _table("Training", _training(saved)),
        _table("Privacy", _privacy(saved)),
        _table("Text", _text(saved)),
        _table("Validation", _validation(saved)),
        _scores(saved),
    ]
    return "\n".join(section for section in sections if section)


def _table(title: str, facts: dict[str, Any]) -> str:
    rows = [_row(key, _shown(value)) for key, value in facts.items() if value is not None]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *rows, ""]) if rows else ""


def _row(*cells: str) -> str:
    """Of a table; a bar would end a cell, in code as well, and many tokens have one."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _training(saved: SavedModel) -> dict[str, Any]:
    config, facts = saved.config, read_run(saved.run)[1]
    parameters = {"parameters": num_elements(saved.params), "checkpoint": saved.manifest.stem}
    if facts["kind"] == IMPORTED:
        return {**parameters, "trained": "elsewhere, and imported"}
    state = artifact.read(saved.manifest).facts["state"]
    inner, fl = config.inner, config.federation
    federated = {
        "rounds": state.get("round"),
        "clients": f"{fl.population}, {fl.cohort_size} in a round",
        "local steps in a round": inner.local_steps,
        "outer optimizer": fl.outer_name,
        "parameters are": None
        if fl.ema_decay is None
        else f"the average of the rounds, decay {fl.ema_decay:g}",
        "layers of one client": None
        if saved.client is None
        else f"client {saved.client}'s own: {', '.join(fl.personal_layers)}",
    }
    return {
        **parameters,
        "kind": facts["kind"],
        "began with": _origin(saved),
        **(federated if "round" in state else {}),
        "steps": state.get("step"),
        "tokens": state.get("num_tokens"),
        "sequence length": inner.row_length,
        "batch": inner.batch_rows,
        "inner optimizer": f"{inner.optimizer.name}, learning rate {inner.optimizer.lr:g}",
        "precision": inner.precision,
        "data": f"{config.data.name}, digest {facts.get('data_digest', 'unknown')}",
        "configuration": f"digest {facts.get('config_digest', 'unknown')}",
        "history": _history(saved),
        "Photon": facts.get("photon"),
        "PyTorch": facts.get("torch"),
    }


def _origin(saved: SavedModel) -> str | None:
    """What a run began with that somebody had trained, by name: a path is its owner's."""
    return ", ".join(f"`{Path(one).name}`" for one in saved.config.trained_before) or None


def _history(saved: SavedModel) -> str | None:
    """The link that proves where the checkpoint comes from, where the run has a chain."""
    link = link_of(saved.run, saved.manifest)
    if link is None:
        return None
    head = link.head
    return f"link {head.number} of round {head.round}, `{head.hash}`, {signer_of(link)}"


def privacy_of(saved: SavedModel) -> dict[str, float]:
    """The price of the parameters, where updates got noise; else nothing.

    Raises:
        ConfigError: dp-accounting is not installed.
    """
    state = artifact.read(saved.manifest).facts.get("state", {})
    if not (told := state.get("releases")):
        return {}
    fl, count = saved.config.federation, count_of(told)
    found = {
        "epsilon": price_of(fl, count),
        "delta": fl.privacy.delta_for(fl.population),
        "releases": count.total(),
    }
    asked = max(state.get("asked", 0), count.total())  # older versions noted releases alone
    if (of_updates := price_of_updates(fl, asked)) is not None:
        found["epsilon_of_updates"] = of_updates
    return found


def _privacy(saved: SavedModel) -> dict[str, Any]:
    """What the parameters promise every client."""
    facts, given = privacy_of(saved), saved.config.federation.privacy
    if not facts:
        return {}
    price, server = facts["epsilon"], facts.get("epsilon_of_updates")
    own = "" if saved.client is None else " and the layers of one client"
    before = _origin(saved)
    origin = f"; what {before}, which the run began with, tells beyond these releases"
    return {
        "epsilon": f"{price:.4g} at delta {facts['delta']:g}",
        "it bounds": "what these parameters, and all of the run before them, tell of whether a "
        f"client took part with all its text: odds change by a factor of {_odds(price)} at most, "
        "but for a chance of delta",
        "it does not bound": f"metrics of the run{own}; what several clients have in common"
        f"{origin if before else ''}",
        "releases": f"{facts['releases']}, of updates of norm {given.clip_norm:g} at most",
        "noise": f"by the {given.noise_by}, {given.noise_multiplier:g} times that norm",
        "for a server that keeps every update": server and f"epsilon {server:.4g}",
    }


def _odds(price: float) -> str:
    return f"e^{price:.3g}" if price > MOST_ODDS else f"{math.exp(price):.3g}"


def _text(saved: SavedModel) -> dict[str, Any]:
    """How text is to be tokenised for this model."""
    facts, name = saved.encoder.facts, saved.encoder.tokenizer.id_to_token
    before = " ".join(f"`{name(number)}`" for number in facts.begin)
    return {
        "behind each document": f"`{name(facts.end)}` (token {facts.end})",
        "before each document": before or None,
        "special tokens spelled in text": "stay text" if facts.specials_are_text else "are tokens",
    }


def _validation(saved: SavedModel) -> dict[str, Any]:
    """What the run itself recorded at this checkpoint."""
    state = artifact.read(saved.manifest).facts.get("state", {})
    kind = "round" if "round" in state else "step"
    records = [one for one in read_lines(saved.run / "metrics.jsonl") if kind in one]
    at = [one for one in records if one[kind] == state.get(kind) and "val_loss" in one]
    if not at:
        return {}
    names = {"val_loss": "loss (nats per token)", "val_perplexity": "perplexity",
             "val_bits_per_byte": "bits per byte", "val_accuracy": "token accuracy"}  # fmt: skip
    found: dict[str, Any] = {shown: at[-1].get(key) for key, shown in names.items()}
    if count := at[-1].get("val_clients"):
        found["the mean of"] = f"{count} clients' models"
    return found


def _scores(saved: SavedModel) -> str:
    """The results of `photon evaluate` for this checkpoint, if there are any."""
    found = read_results(saved.scores)
    if not found or not (found["tasks"] or found["composites"]):
        return ""
    return "\n".join(["## Scores\n", *_score_lines(found), ""])


def _score_lines(found: dict[str, Any]) -> Iterator[str]:
    if whole := [one for one in found["composites"] if one["score"] is not None]:
        yield from ("| composite | score |", "|---|---|")
        yield from (_row(one["name"], f"{one['score']:.4f}") for one in whole)
        yield ""
    yield from ("| task | accuracy | chance | majority | rows |", "|---|---|---|---|---|")
    for key, done in found["tasks"].items():
        score = done["score"]
        accuracy, stderr = _number(score["accuracy"], 4), _number(score["stderr"], 4)
        chance, majority = _number(score["chance"], 2), _number(score["majority"], 3)
        yield _row(key, f"{accuracy} ± {stderr}", chance, majority, f"{score['n']:,}")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
