"""Checkpoints as folders of `transformers`, and such folders as run folders."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import photon
from photon.cli.main import run as photon_command
from photon.config.compose import with_values
from photon.config.model import ModelConfig
from photon.container.container import digest
from photon.data.tokenization import resolved
from photon.data.tokenizer import load_tokenizer
from photon.errors import (
    CheckpointError,
    DataError,
    PhotonWarning,
    RunFolderError,
    StorageError,
)
from photon.hub import hf_folder
from photon.hub.hf_folder import export_folder, import_folder
from photon.hub.inference import continue_text, load_language_model
from photon.hub.pretrained import pretrained_parameters
from photon.model.build import build_model, parameters_of
from photon.model.causal_lm import read_config
from photon.model.generate import generate
from photon.run import checkpoint
from photon.run.run_folder import RunFolder
from photon.run.run_tokens import tokenization_facts
from photon.run.saved_model import load_saved_model, resolve_checkpoint
from photon.training.state import TrainState

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

ALIBI = {"name": "mpt_causal_lm", "no_bias": True, "attn_config.alibi": True}
FAMILIES = {
    "gpt2": {"name": "mpt_causal_lm"},
    "gpt2 without biases": {"name": "mpt_causal_lm", "no_bias": True, "ffn_act": "gelu_tanh"},
    "mpt": ALIBI,
    "mpt, 3 heads": {**ALIBI, "d_model": 24, "n_heads": 3},
    "llama": {},
    "llama grouped": {"n_heads": 4, "attn_config.kv_n_heads": 2},
    "llama untied": {"tie_word_embeddings": False},
    "qwen3": {"attn_config.qk_norm": True},
}


@pytest.fixture
def make_run(smoke, data_root, tmp_path):
    """Gives a run folder whose checkpoint holds stirred weights: none zero, one or small."""

    def make(label: str = "run", **model) -> Path:
        config = with_values(
            smoke(f"run_uuid={label}"), {f"llm_config.model.{k}": v for k, v in model.items()}
        )
        generator = torch.Generator().manual_seed(3)
        params = {
            name: 2 * value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in parameters_of(build_model(config.inner, 3)).items()
        }
        tokenizer = data_root / "tokenizer.json"
        facts = tokenization_facts(resolved(load_tokenizer(tokenizer)), tokenizer)
        with RunFolder.create(
            tmp_path / label, config.model_dump(mode="json"), "centralized", tokenizer, facts
        ) as folder:
            checkpoint.save_train_state(
                folder.checkpoints, "step_000007", TrainState(params=params, step=7)
            )
        return folder.path

    return make


def load(folder: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder))
    return model.eval(), transformers.AutoTokenizer.from_pretrained(str(folder))


@torch.no_grad()
def same_logits(run: Path, folder: Path) -> bool:
    tokens = torch.randint(0, 300, (2, 32), generator=torch.Generator().manual_seed(1))
    here = load_language_model(run).model(tokens)
    return bool(torch.allclose(load(folder)[0](tokens).logits, here, rtol=0, atol=1e-4))


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_export(make_run, tmp_path, family):
    run, out = make_run(**FAMILIES[family]), tmp_path / "out"
    export_folder(run, out)
    assert same_logits(run, out)
    model, tokenizer = load(out)
    writer = load_language_model(run)
    for prompt in ("def f(", "import os\n\n", "é "):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert ids[0].tolist() == writer.encoder.opening(prompt)
        text = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        text = text[: text.index(writer.encoder.end)] if writer.encoder.end in text else text
        own = generate(writer.model, ids[0].tolist(), max_new_tokens=12, temperature=0,
                       stop=writer.encoder.end)  # fmt: skip
        assert text == list(own)
        written = "".join(continue_text(writer, prompt, max_new_tokens=12, temperature=0))
        assert tokenizer.decode(text).startswith(written.removesuffix("\ufffd"))


def test_special_tokens_and_positions_are_those_of_the_run(make_run, tmp_path):
    export_folder(make_run(), tmp_path / "out")
    model, tokenizer = load(tmp_path / "out")
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 0
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 32
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == {
        name for name, _ in model.named_parameters()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_import_gives_the_same_run_back(make_run, tmp_path, family):
    run = make_run(**FAMILIES[family])
    export_folder(run, tmp_path / "out")
    import_folder(tmp_path / "out", tmp_path / "back")
    first, second = load_saved_model(run), load_saved_model(tmp_path / "back")
    assert digest(first.params) == digest(second.params)
    assert second.encoder.facts == first.encoder.facts
    texts = [
        "".join(continue_text(load_language_model(path), "def ", max_new_tokens=9, temperature=0))
        for path in (run, tmp_path / "back")
    ]
    assert texts[0] == texts[1]
    export_folder(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "vocab_size": 300, "head_dim": 4,
    "eos_token_id": 0, "bos_token_id": 0,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 300,
        "eos_token_id": 0, "bos_token_id": 0}  # fmt: skip
MPT = {"d_model": 18, "n_layers": 1, "n_heads": 3, "max_seq_len": 32, "vocab_size": 300}


@pytest.fixture
def foreign(data_root, tmp_path):
    """Gives a folder that `transformers` has saved, with a tokenizer."""

    def make(kind: str = "llama", dtype: torch.dtype = torch.float32, **saving) -> Path:
        sizes = {"gpt2": GPT2, "mpt": MPT}.get(kind, LLAMA)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **sizes)
        model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.2)
        model.save_pretrained(tmp_path / "foreign", **saving)
        Tokenizer.from_file(str(data_root / "tokenizer.json")).save(
            str(tmp_path / "foreign" / "tokenizer.json")
        )
        return tmp_path / "foreign"

    return make


@pytest.mark.parametrize("kind", ["gpt2", "mpt", "llama", "qwen3"])
def test_a_folder_of_transformers_becomes_a_run(foreign, tmp_path, kind):
    folder = foreign(kind)
    import_folder(folder, tmp_path / "run")
    assert same_logits(tmp_path / "run", folder)


def test_shards_are_joined(foreign, tmp_path):
    folder = foreign(max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert not (folder / "model.safetensors").exists()
    import_folder(folder, tmp_path / "run")
    assert same_logits(tmp_path / "run", folder)


def test_half_precision_becomes_fp32(foreign, tmp_path):
    folder = foreign(dtype=torch.bfloat16)
    import_folder(folder, tmp_path / "run")
    saved = load_saved_model(tmp_path / "run")
    assert {value.dtype for value in saved.params.values()} == {torch.float32}
    half = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(saved.params["norm.weight"], half.float())


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def leaves_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def torn(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def small_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tensors[name] = tensors[name][:200].clone()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (pickled_only, CheckpointError, "must be safetensors.*save_pretrained"),
        (leaves_the_folder, CheckpointError, "no file '../elsewhere.safetensors'"),
        (torn, CheckpointError, "cannot read the tensors"),
        (small_vocabulary, DataError, "tokenizer has 300 tokens"),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, "config.json: cannot be"),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, "no JSON object"),
        (lambda f: (f / "config.json").unlink(), CheckpointError, "no config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), DataError, "no tokenizer.json"),
    ],
)
def test_what_a_folder_lacks_is_named(foreign, tmp_path, damage, error, message):
    folder = foreign()
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        import_folder(folder, tmp_path / "run")
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_is_made_of_older_files(foreign, tmp_path):
    folder = foreign("gpt2")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    import_folder(folder, tmp_path / "run")
    encoded = load_saved_model(tmp_path / "run").encoder.opening("def f(x):\n")
    assert (
        encoded == transformers.AutoTokenizer.from_pretrained(str(folder))("def f(x):\n").input_ids
    )


def test_the_end_of_a_text_is_the_tokenizers(foreign, tmp_path):
    folder = foreign()
    word = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(65)
    settings = {"eos_token": {"content": word, "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    import_folder(folder, tmp_path / "run")
    assert load_saved_model(tmp_path / "run").encoder.end == 65
    export_folder(tmp_path / "run", tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert exported["eos_token_id"] == 65


def test_only_an_export_is_replaced(make_run, tmp_path):
    run, out = make_run(), tmp_path / "out"
    out.mkdir()
    assert not export_folder(run, out)
    first = (out / "model.safetensors").read_bytes()
    assert export_folder(resolve_checkpoint(run)[1], out)
    assert (out / "model.safetensors").read_bytes() == first
    with pytest.raises(RunFolderError, match="is not empty; name another folder or remove"):
        import_folder(out, out)
    for call, source in ((export_folder, run), (import_folder, out)):
        with pytest.raises(RunFolderError, match=r"holds a run; name another folder$"):
            call(source, run)
    assert load_saved_model(run)


@pytest.mark.parametrize("is_listed", [True, False])
def test_what_a_user_put_into_an_export_is_kept(make_run, tmp_path, capsys, is_listed):
    run, out = make_run(), tmp_path / "out"
    export_folder(run, out)
    if not is_listed:  # as exports were before they listed what they wrote
        facts = json.loads((out / "photon.json").read_text())
        del facts["files"]
        (out / "photon.json").write_text(json.dumps(facts))
    for name in ["mynotes.txt", "figures/README.md", *(["README.md"] if is_listed else [])]:
        theirs = out / name
        theirs.parent.mkdir(exist_ok=True)
        before = theirs.read_text() if theirs.exists() else None
        theirs.write_text("mine")
        assert photon_command(["export", str(run), str(out)]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert f"{out}: " in told
        assert f" {name}" in told
        assert theirs.read_text() == "mine"
        theirs.unlink() if before is None else theirs.write_text(before)
    assert photon_command(["export", str(run), str(out)]) == 0
    assert "in place of the earlier export" in capsys.readouterr().out


def test_a_full_disk_leaves_the_earlier_export(make_run, tmp_path, monkeypatch):
    run, out = make_run(), tmp_path / "out"
    export_folder(run, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_folder, "write_container", full)
    with pytest.raises(StorageError, match="No space left"):
        export_folder(run, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_the_commands(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run("a")
    for arguments in (
        ["export", "a", "hf"],
        ["import", "hf", "b"],
        ["generate", "b", "def f(", "--max-new-tokens", "6"],
        ["generate", "a/checkpoints/step_000007.json", "def f(", "--max-new-tokens", "6"],
    ):
        assert photon_command(arguments) == 0
    lines = capsys.readouterr().out
    assert lines.startswith("folder      hf\nfolder      b\ndef f(")
    first, second = lines.split("folder      b\n")[1].split("def f(")[1:]
    assert first == second
    for arguments, message in (
        (["export", "none", "x"], "none: no such run folder or checkpoint"),
        (["import", "none", "x"], "none: no config.json"),
        (["generate", "hf", "x"], "is no run but a Hugging Face folder; `photon import hf runs/"),
        (["train", "--resume", "b"], "b: is an imported model, not a run"),
    ):
        assert photon_command(arguments) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


def test_alibi_with_biases_is_refused_and_leaves_nothing(make_run, tmp_path):
    run = make_run(**{**ALIBI, "no_bias": False})
    with pytest.raises(photon.PhotonError, match=r"no_bias=False.*MPT always computes with"):
        export_folder(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_not_exported(make_run, tmp_path):
    run = make_run()
    file = next((run / "checkpoints").glob("*-base-*"))
    body = bytearray(file.read_bytes())
    body[-5] ^= 1
    file.write_bytes(body)
    with pytest.raises(photon.PhotonError, match="not those that were written"):
        export_folder(run, tmp_path / "out")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(foreign, tmp_path, value):
    folder = foreign()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"norm\.weight: 1 of \d+ values are infinite"):
        import_folder(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(CheckpointError, match="infinite or no number"):
        pretrained_parameters(causal_lm(folder), str(folder))


def causal_lm(folder: Path) -> ModelConfig:
    return read_config(ModelConfig(name="hf_causal_lm", pretrained_model_name_or_path=str(folder)))


def test_an_import_needs_no_room_but_its_own(foreign, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    import_folder(foreign(), tmp_path / "run")
    assert load_saved_model(tmp_path / "run").encoder.end == 0


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_are_as_private_as_the_umask_says(make_run, tmp_path, umask):
    before = os.umask(umask)
    try:
        export_folder(make_run(), tmp_path / "out")
        import_folder(tmp_path / "out", tmp_path / "back")
    finally:
        os.umask(before)
    files = list((tmp_path / "out").iterdir())
    files += [*(tmp_path / "run/checkpoints").iterdir(), *(tmp_path / "back/checkpoints").iterdir()]
    assert {path.suffix for path in files} >= {".safetensors", ".json"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}


def test_a_model_that_cannot_be_exported_is_told_of_when_it_begins_to_train(smoke, recwarn):
    keys = ["llm_config.model.name=mpt_causal_lm", "llm_config.model.attn_config.alibi=true",
            "fl.n_rounds=1", "fl.n_total_clients=1"]  # fmt: skip
    with pytest.warns(PhotonWarning, match=r"this model trains, but .*no_bias=False: cannot"):
        photon.train(smoke("run_uuid=biased", *keys))
    recwarn.clear()
    photon.train(smoke("run_uuid=plain", *keys, "llm_config.model.no_bias=true"))
    assert not [one for one in recwarn if "this model trains" in str(one.message)]
