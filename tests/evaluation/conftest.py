"""A tokenizer and models of a few hundred tokens, and task files of a few rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from photon.config.evaluation import IclTask
from photon.config.llm import Inner
from photon.config.model import ModelConfig
from photon.data.prepare.encode import Encoder
from photon.data.tokenization import resolved
from photon.data.tokenizer import train_tokenizer
from photon.model.build import LanguageModel, build_model

TEXT = "the cat sat on a mat and the dog ran to a red house because it was cold and it was late"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 300)


@pytest.fixture
def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer, resolved(tokenizer))


@pytest.fixture
def make_model() -> Callable[..., LanguageModel]:
    def make(**keys) -> LanguageModel:
        shape = {"d_model": 16, "n_heads": 4, "n_layers": 2, "ffn_hidden_size": 16, **keys}
        model = build_model(Inner(model=ModelConfig(vocab_size=300, **shape), max_seq_len=96), 1)
        for parameter in model.parameters():
            parameter.data *= 4  # far from uniform, so that mistakes show
        return model.eval()

    return make


@pytest.fixture
def make_task(tmp_path) -> Callable[..., tuple[IclTask, Path]]:
    """Gives a task and its file, of these rows."""

    def make(kind: str, rows: list[dict], **keys) -> tuple[IclTask, Path]:
        path = tmp_path / "task.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = {"label": "tiny", "dataset_uri": path.name, "num_fewshot": [0], **keys}
        return IclTask.model_validate({"icl_task_type": kind, **values}), path

    return make
