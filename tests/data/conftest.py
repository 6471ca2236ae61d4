"""A tokenizer, files as those of C4, and `photon prepare` on any text with few keys."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from made_texts import sentence, write_c4
from prepared_parts import L

from photon.config.prepare import PrepareConfig
from photon.data.prepare.text import prepare_text
from photon.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([sentence(draw) for _ in range(300)], 400).save(str(path))
    return str(path)


@pytest.fixture
def c4(tmp_path) -> Path:
    write_c4(tmp_path / "c4")
    return tmp_path / "c4"


@pytest.fixture
def prepare(tmp_path, tokenizer):
    def run(source: Path, out: str = "out", clients: int = 2, **keys):
        keys = {"tokenizer": tokenizer, "shuffle_documents": 25, **keys}
        config = PrepareConfig(source=str(source), **keys)
        return prepare_text(tmp_path / out, config, clients, L)

    return run
