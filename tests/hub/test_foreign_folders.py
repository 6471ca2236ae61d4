"""Folders of `transformers` that others made: nothing in them is run, and all is parsed."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer

from photon.config.model import ModelConfig
from photon.errors import CheckpointError, DataError
from photon.hub.hf_folder import import_folder, read_encoder
from photon.hub.pretrained import pretrained_parameters
from photon.model.causal_lm import read_config

LLAMA = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 512, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def folder(data_root, tmp_path) -> Path:
    made = tmp_path / "theirs"
    config = transformers.AutoConfig.for_model("llama", **LLAMA)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made)
    shutil.copy(data_root / "tokenizer.json", made)
    return made


def test_code_beside_a_tokenizer_is_neither_run_nor_offered(folder, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (folder / "tokenizer.json").unlink()
    (folder / "theirs.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast as Theirs\n"
    )
    named = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": [None, "theirs.Theirs"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda question="": asked.append(question) or "y")
    with pytest.raises(DataError, match=r"theirs: no tokenizer.json here, .*custom code.*; add"):
        import_folder(folder, tmp_path / "run")
    assert not ran.exists()
    assert not asked


def test_a_library_error_without_words_is_told_by_its_kind(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()

    def fails(*args, **keys):
        raise RuntimeError

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(DataError, match=r"\(RuntimeError\)"):
        read_encoder(folder)


@pytest.mark.parametrize("number", [-1, 1 << 32, True])
def test_a_number_that_names_no_token_ends_no_text(folder, number):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": number}))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert read_encoder(folder).end == tokenizer.token_to_id("<|endoftext|>")


def test_tokens_of_an_export_that_no_tokenizer_can_have_are_refused(folder):
    facts = {"tokenization": {"end": 1 << 40, "begin": [], "special_tokens": "text"}}
    (folder / "photon.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"theirs: .* token 1099511627776, which its tokenizer"):
        read_encoder(folder)


@pytest.mark.parametrize("files", [["model-1.safetensors"], "model-1.safetensors", {}, None])
def test_an_index_without_a_map_of_tensors_is_refused(folder, tmp_path, files):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=r"index.json: its weight_map does not say"):
        import_folder(folder, tmp_path / "run")


def test_weights_that_are_cut_off_are_one_line(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    model = read_config(ModelConfig().but(name="hf_causal_lm", hf_folder=str(folder)))
    with pytest.raises(CheckpointError, match=r"theirs: its safetensors are damaged or cut off"):
        pretrained_parameters(model, str(folder))


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"model_type": ["llama"]}, "model_type="), ({"max_position_embeddings": None}, "is null")],
)
def test_an_entry_of_another_kind_is_one_line(folder, tmp_path, entry, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entry}))
    with pytest.raises(CheckpointError, match=rf"theirs: config.json: .*{message}"):
        import_folder(folder, tmp_path / "run")
