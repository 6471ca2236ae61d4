"""Runs that start from weights: of another run, of a folder of `transformers`."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import photon
from photon.config import load_config
from photon.container.container import digest
from photon.data.tokenizer import train_tokenizer
from photon.errors import CheckpointError, ConfigError, MismatchedCheckpoint, PhotonWarning
from photon.hub.hf_folder import export_folder, import_folder
from photon.hub.inference import load_language_model
from photon.hub.warm_start import warm_start
from photon.model.build import build_model, model_with, parameters_of
from photon.model.causal_lm import read_config
from photon.model.generate import generate
from photon.run import checkpoint
from photon.run.saved_model import load_saved_model

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

KEEP = "llm_config.save_num_checkpoints_to_keep=9"
STILL = ["llm_config.optimizer.name=adamw", "llm_config.optimizer.lr=1e-9", KEEP]
"""Steps so small that a run shows what it started from."""


@pytest.fixture
def train(smoke):
    def call(name: str, *overrides: str, centralized: bool = False) -> Path:
        config = smoke(f"run_uuid={name}", *overrides)
        return Path(photon.train(config, centralized=centralized).folder)

    return call


def first_params(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_parameters(checkpoint.list_checkpoints(run / "checkpoints")[0])


def last_params(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_parameters(checkpoint.newest_checkpoint(run / "checkpoints"))


def difference(a, b) -> float:
    assert list(a) == list(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_federation_starts_from_a_centralised_checkpoint(train):
    source = train("central", centralized=True)
    run = train("fed", f"pretrained_model_path={source}", KEEP)
    assert digest(first_params(run)) == digest(last_params(source))
    middle = checkpoint.list_checkpoints(source / "checkpoints")[0]
    older = train("older", f"pretrained_model_path={middle}", KEEP)
    assert digest(first_params(older)) == digest(checkpoint.load_parameters(middle))
    assert digest(first_params(older)) != digest(first_params(run))


def test_a_centralised_run_starts_from_a_federation(train):
    source = train("fed")
    run = train("central", f"pretrained_model_path={source}", *STILL, centralized=True)
    seeded = train("seeded", *STILL, centralized=True)
    assert difference(first_params(run), last_params(source)) < 1e-6
    assert difference(first_params(seeded), last_params(source)) > 1e-3


@pytest.mark.parametrize("model", [[], ["llm_config.model.name=mpt_causal_lm"]])
def test_a_run_starts_from_an_export_and_from_an_import(train, tmp_path, model):
    source = train("source", *model)
    export_folder(source, tmp_path / "hf")
    import_folder(tmp_path / "hf", tmp_path / "imported")
    for name in ("hf", "imported"):
        run = train(f"from-{name}", f"pretrained_model_path={tmp_path / name}", KEEP, *model)
        assert digest(first_params(run)) == digest(last_params(source))


def test_the_baselines_start_from_the_same_weights(train):
    source = train("source", centralized=True)
    run = train("fed", f"pretrained_model_path={source}", "compare.centralized=true", *STILL)
    twin = first_params(run / "baselines" / "centralized")
    assert difference(twin, last_params(source)) < 1e-6


@pytest.mark.parametrize("form", ["run", "hf"])
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["llm_config.model.name=mpt_causal_lm"], "model.name is 'llama' there, 'mpt_causal_lm'"),
        (["llm_config.model.n_heads=4"], "n_heads is 2 there, 4 here"),
        (["llm_config.model.d_model=32"], "d_model is 16 there, 32 here"),
        (["llm_config.model.attn_config.rope_theta=500"], r"rope_theta is 10000\.0 there, 500\.0"),
        (["llm_config.model.tie_word_embeddings=false"], "tie_word_embeddings is True there"),
    ],
)
def test_another_architecture_is_refused_before_a_folder_is_made(
    train, smoke, tmp_path, form, overrides, message
):
    source = train("source", "fl.n_rounds=1")
    if form == "hf":
        export_folder(source, tmp_path / "hf")
        source = tmp_path / "hf"
    with pytest.raises(MismatchedCheckpoint, match=message) as caught:
        train("new", f"pretrained_model_path={source}", *overrides)
    assert str(caught.value).startswith(f"{source}: ")
    assert not (tmp_path / "runs" / "new").exists()
    its_own = str(caught.value).partition("; to have its own: ")[2].split()
    wanted = smoke(f"pretrained_model_path={source}", *overrides, *its_own)
    warm_start(wanted.inner, wanted.starts, wanted.federation).check()


def test_learned_positions_of_another_number_are_refused(train, data_root, tmp_path):
    mpt = "llm_config.model.name=mpt_causal_lm"
    source = train("source", "fl.n_rounds=1", mpt)
    longer = "llm_config.model.max_seq_len=48"
    with pytest.raises(MismatchedCheckpoint, match=r"positions\.weight has shape \[32, 16\]"):
        train("new", f"pretrained_model_path={source}", mpt, longer)


@pytest.mark.parametrize("place", ["none", "."])
def test_a_place_without_weights_is_named(train, tmp_path, place):
    with pytest.raises(CheckpointError, match=r"pretrained_model_path=.*Hugging Face folder"):
        train("new", f"pretrained_model_path={tmp_path / place}")


def test_another_tokenizer_is_worth_a_warning(smoke, train, tmp_path):
    source = train("source", "fl.n_rounds=1")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PhotonWarning)
        train("same", f"pretrained_model_path={source}", "fl.n_rounds=1")
    other = train_tokenizer(["The wind blew through the tall grass of the steppe. "], 270)
    other.save(str(source / "tokenizer.json"))
    with pytest.warns(PhotonWarning, match="has another tokenizer"):
        train("other", f"pretrained_model_path={source}", "fl.n_rounds=1")


KINDS = {
    "gpt_neox": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                 "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 48,
                 "hidden_dropout": 0.5, "eos_token_id": 0, "bos_token_id": 0},
    "qwen2": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 300,
              "max_position_embeddings": 48, "tie_word_embeddings": True},
}  # fmt: skip


def make_folder(folder: Path, kind: str, **entries) -> Path:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**KINDS[kind], **entries})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, kind) -> Path:
    return make_folder(tmp_path / "theirs", kind)


def given(folder: Path) -> list[str]:
    return ["llm_config.model.name=hf_causal_lm",
            f"llm_config.model.pretrained_model_name_or_path={folder}"]  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(str(folder))
    return {f"model.{name}": value.detach() for name, value in loaded.named_parameters()}


class Draws(TorchDispatchMode):
    """Counts the tensors that are filled at random."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "normal" in str(func) or "uniform" in str(func)
        return func(*args, **(kwargs or {}))


def test_a_model_that_is_only_read_draws_no_weights(folder):
    inner = load_config(given(folder)).inner
    inner = inner.model_copy(update={"model": read_config(inner.model)})
    params, tokens = weights(folder), torch.arange(20).view(1, -1)
    with Draws() as seeded:
        build_model(inner, 0)
    assert seeded.count > 0
    with Draws() as borrowed:
        model = model_with(inner, params).eval()
    assert borrowed.count == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        model_with(inner, dict(list(params.items())[1:]))


def test_any_model_of_transformers_trains_on(train, folder, tmp_path):
    """Two rounds from its weights, a third when its folder is gone; text, and back to its form."""
    schedule = "llm_config.scheduler.schedulers.lr.t_max=9"
    run = train("hf", *given(folder), KEEP, schedule)
    assert digest(first_params(run)) == digest(weights(folder))
    whole = train("whole", *given(folder), "fl.n_rounds=3", schedule)
    shutil.rmtree(folder)
    result = photon.resume(run, ["fl.n_rounds=3"])
    assert result.federated is not None
    assert digest(last_params(run)) == digest(last_params(whole))
    assert difference(first_params(run), last_params(run)) > 1e-3
    writer = load_language_model(run)
    for prompt in ([5], list(range(40))):
        cached = list(generate(writer.model, prompt, max_new_tokens=14, temperature=0))
        with patch.object(writer.model, "new_cache", lambda: None):
            assert cached == list(generate(writer.model, prompt, max_new_tokens=14, temperature=0))
        assert len(cached) == 14
    export_folder(run, tmp_path / "out")
    tokens = torch.arange(40).view(1, -1)
    other = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out")).eval()
    assert type(other) is type(writer.model.model)
    with torch.no_grad():
        torch.testing.assert_close(other(tokens).logits, writer.model(tokens))
    again = train("again", *given(tmp_path / "out"), "fl.n_rounds=1", KEEP)
    assert digest(first_params(again)) == digest(last_params(run))
    warm = train("warm", *given(tmp_path / "out"), f"pretrained_model_path={run}", KEEP)
    assert digest(first_params(warm)) == digest(last_params(run))


def test_a_resized_vocabulary_keeps_what_both_have(train, folder):
    before = weights(folder)
    size = read_config(load_config(given(folder)).inner.model).vocab_size
    run = train("hf", *given(folder), f"fl.resize_vocab={size + 7}", "fl.n_rounds=1", KEEP)
    resized = 0
    for name, value in first_params(run).items():
        rows = len(before[name])
        assert torch.equal(value[:rows], before[name])
        resized += len(value) - rows
    assert resized in (7, 14), "the tokens' table, and an untied output layer"
    assert load_language_model(run).model.vocab_size == size + 7


def test_a_cached_token_costs_one_position(train, folder):
    model = load_language_model(train("hf", *given(folder), "fl.n_rounds=1")).model
    seen = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    list(generate(model, [1, 2, 3, 4], max_new_tokens=3, temperature=0))
    assert seen == [4, 1, 1]


def test_new_weights_are_seeded_and_independent_of_the_folders(train, folder):
    fresh = [*given(folder), "llm_config.model.pretrained=false", "fl.n_rounds=1", KEEP]
    run, again, other = train("a", *fresh), train("b", *fresh), train("c", *fresh, "seed=2")
    config = load_saved_model(run).config
    seeded = parameters_of(build_model(config.inner, config.seed))
    assert digest(first_params(run)) == digest(first_params(again)) == digest(seeded)
    assert difference(first_params(run), first_params(other)) > 1e-3
    assert difference(first_params(run), weights(folder)) > 1e-3


def test_it_trains_without_a_federation_and_without_dropout(train, folder, kind):
    run = train("central", *given(folder), *STILL, centralized=True)
    assert difference(first_params(run), weights(folder)) < 1e-6
    recorded = load_saved_model(run).config.inner.model.hf_config
    assert recorded["model_type"] == kind
    rates = [v for k, v in recorded.items() if "dropout" in k and v is not None]
    assert rates
    assert set(rates) == {0.0}
    assert str(folder) not in json.dumps(recorded)


def test_a_warm_start_of_another_model_of_transformers_is_refused(train, tmp_path):
    neox = make_folder(tmp_path / "neox", "gpt_neox", num_hidden_layers=1)
    qwen = make_folder(tmp_path / "qwen", "qwen2", tie_word_embeddings=False)
    wide = make_folder(tmp_path / "wide", "gpt_neox", num_hidden_layers=1, intermediate_size=40)
    for there, message in (
        (qwen, "hf_config.model_type is 'qwen2' there, 'gpt_neox' here"),
        (wide, "another"),
        (train("llama", "fl.n_rounds=1"), "model.name is 'llama' there, 'hf_causal_lm' here"),
    ):
        with pytest.raises(MismatchedCheckpoint, match=message) as caught:
            train("new", *given(neox), f"pretrained_model_path={there}")
        assert str(caught.value).startswith(str(there))
        assert len(str(caught.value).splitlines()) == 1
        shutil.rmtree(tmp_path / "runs" / "new", ignore_errors=True)
    with pytest.raises(MismatchedCheckpoint, match="'hf_causal_lm' there"):
        train("new", f"pretrained_model_path={train('neox', *given(neox), 'fl.n_rounds=1')}")


def pickled_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def one_weight_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("gpt_neox.final_layer_norm.bias")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "overrides", "error", "message"),
    [
        (pickled_only, [], CheckpointError, "must be safetensors"),
        (one_weight_less, [], MismatchedCheckpoint, "final_layer_norm.bias is among the missing"),
        (shutil.rmtree, [], ConfigError, "there is no such folder"),
        (None, ["llm_config.max_seq_len=64"], ConfigError, "longer than the 48 positions"),
        (None, ["llm_config.model.max_seq_len=64"], ConfigError, "has 48 positions"),
        (None, ["+llm_config.model.config_overrides.hiden_size=8"], ConfigError, "hiden_size"),
        (None, ["+llm_config.model.config_overrides.vocab_size=299"], photon.PhotonError, "300"),
        (
            None,
            ["+llm_config.model.config_overrides.intermediate_size=8"],
            MismatchedCheckpoint,
            "another",
        ),
    ],
)
def test_mistakes_are_one_line(train, tmp_path, damage, overrides, error, message):
    folder = make_folder(tmp_path / "theirs", "gpt_neox")
    if damage:
        damage(folder)
    with pytest.raises(error, match=message) as caught:
        train("new", *given(folder), *overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_without_transformers_the_extra_is_named(train, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "theirs", "qwen2")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'photon-pretraining\[hf\]'"):
        train("new", *given(folder))
