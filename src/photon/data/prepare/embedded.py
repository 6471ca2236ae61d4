"""The embedded corpus for a federation: text -> tokens -> rows per client.

<root>/manifest.json                        what was prepared, written last
<root>/tokenizer.json
<root>/validation/                          common validation set
<root>/client_0/{train,validation}/ ...     each client's own rows, and its held-out part
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from photon.config.dataset import EmbeddedCorpus
from photon.data.prepare.assemble import Inputs, Plan, assemble
from photon.data.prepare.corpus import standard_library
from photon.data.prepare.partition import Rule, partition_documents
from photon.data.prepare.pipeline import DatasetSpec, Phase, Progress
from photon.data.prepare.routing import ListedRoute
from photon.data.tokenizer import train_tokenizer
from photon.say import Say


def embedded_settings(
    corpus: EmbeddedCorpus, num_clients: int, sequence_length: int
) -> dict[str, Any]:
    """What decides the bytes of an embedded data set; equal settings, equal data."""
    return {
        "corpus": f"standard library of Python {platform.python_version()}",
        "num_clients": num_clients,
        "sequence_length": sequence_length,
        **corpus.model_dump(),
    }


def prepare_embedded(
    root: Path,
    corpus: EmbeddedCorpus,
    num_clients: int,
    sequence_length: int,
    say: Say = lambda line: None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Prepare the standard library for a federation; see `assemble`."""
    inputs = Inputs(embedded_settings(corpus, num_clients, sequence_length))
    plan = partial(_plan, corpus, num_clients, sequence_length, say)
    return assemble(root, inputs, plan, say, report)


def _plan(corpus: EmbeddedCorpus, num_clients: int, sequence_length: int, say: Say) -> Plan:
    documents = standard_library(corpus.max_bytes)
    say(f"corpus      {len(documents)} modules of the Python standard library")
    partition = partition_documents(
        documents,
        Rule(corpus.partition, num_clients, corpus.seed),
        validation_fraction=corpus.validation_fraction,
    )
    held_back = set(partition.validation).union(*partition.held_out)
    visible = [d.text for i, d in enumerate(documents) if i not in held_back]
    return Plan(
        spec=DatasetSpec(clients=range(num_clients), sequence_length=sequence_length),
        phases=[Phase(ListedRoute(partition, documents, documents.__getitem__))],
        make_tokenizer=lambda: train_tokenizer(visible, corpus.vocab_size),
    )
