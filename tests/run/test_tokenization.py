"""One tokenisation from preparing to exporting: its facts are kept, and nothing guesses them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from photon.config import load_config
from photon.data.prepare.encode import Encoder
from photon.data.prepare.text import prepare_text
from photon.data.read.shards import Rows
from photon.data.tokenization import Tokenization, of_foreign, of_occurrence, resolved
from photon.data.tokenizer import train_tokenizer
from photon.errors import CorruptCheckpoint, DataError, MismatchedCheckpoint, PhotonNote
from photon.experiment.experiment import train
from photon.hub import inference
from photon.hub.hf_folder import export_folder, import_folder
from photon.hub.inference import continue_text, load_language_model
from photon.hub.model_card import model_card
from photon.machine.device import choose_device
from photon.node.hosted_run import _require_same_data, data_facts
from photon.run.run_data import RunData
from photon.run.saved_model import load_saved_model
from photon.scoring.candidate import open_candidate
from photon.scoring.evaluate import Wanted, evaluate

TEXTS = [
    f"the cat sat on a mat, number {n}, and then it ran to <s> house {n % 7}" for n in range(80)
]


@pytest.fixture
def make_tokenizer(tmp_path):
    """Gives the file of a tokenizer with these special tokens and no others."""

    def make(*specials: str, awkward: bool = False) -> Path:
        plain = json.loads(train_tokenizer([" ".join(TEXTS)], 300).to_str())
        word = specials[0]
        plain["added_tokens"][0]["content"] = word
        plain["model"]["vocab"][word] = plain["model"]["vocab"].pop("<|endoftext|>")
        tokenizer = Tokenizer.from_str(json.dumps(plain))
        tokenizer.add_special_tokens(list(specials[1:]))
        if awkward:
            tokenizer.enable_truncation(4)
            tokenizer.enable_padding(length=6, pad_token=word)
            ids = [(name, tokenizer.token_to_id(name)) for name in specials]
            tokenizer.post_processor = TemplateProcessing(
                single=f"{specials[-1]} $A {word}", special_tokens=ids
            )
        path = tmp_path / "given" / "tokenizer.json"
        path.parent.mkdir(exist_ok=True)
        tokenizer.save(str(path))
        return path

    return make


@pytest.fixture
def make_data(tmp_path):
    def make(tokenizer: Path, name: str = "data", **keys) -> Path:
        source = tmp_path / "texts.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        given = load_config().data.prepare.model_copy(
            update={"source": str(source), "tokenizer": str(tokenizer), **keys}
        )
        prepare_text(tmp_path / name, given, 2, 32)
        return tmp_path / name

    return make


@pytest.fixture
def make_run(smoke):
    def make(data: Path, *overrides: str) -> Path:
        keys = ("llm_config.max_seq_len=32", "llm_config.model.vocab_size=320", "fl.n_rounds=1")
        own = [f"dataset.train.root_local={data}", "run_uuid=own", *keys, *overrides]
        return Path(train(smoke(*own)).folder)

    return make


def written_by(run: Path) -> str:
    model = load_language_model(run)
    return "".join(continue_text(model, "the cat", max_new_tokens=4, temperature=0))


def end_everywhere(run: Path, out: Path) -> set[int]:
    """The end of a text as every reader of a run, of its export and of its import has it."""
    export_folder(run, out / "hf")
    import_folder(out / "hf", out / "back")
    config = json.loads((out / "hf" / "config.json").read_text())
    kept = json.loads((out / "hf" / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(out / "hf" / "tokenizer.json"))
    device = choose_device("cpu")
    return {
        load_language_model(run).encoder.end,
        load_language_model(out / "back").encoder.end,
        open_candidate(run, [], device).encoder.end,
        open_candidate(out / "hf", [], device).encoder.end,
        config["eos_token_id"],
        tokenizer.token_to_id(kept["eos_token"]),
    }


def test_a_bar_in_a_token_ends_no_cell_of_the_card(make_tokenizer, make_data, make_run):
    card = model_card(load_saved_model(make_run(make_data(make_tokenizer("<|endoftext|>")))))
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert r"| behind each document | `<\|endoftext\|>` (token " in card


@pytest.mark.parametrize(
    ("specials", "asked"), [(["[STOP]"], "[STOP]"), (["<|endoftext|>", "</s>"], "</s>")]
)
def test_the_end_of_a_text_is_the_one_that_was_asked_for(
    make_tokenizer, make_data, make_run, tmp_path, specials, asked
):
    tokenizer = make_tokenizer(*specials)
    data = make_data(tokenizer, eos_text=asked)
    run, end = make_run(data), Tokenizer.from_file(str(tokenizer)).token_to_id(asked)
    facts = json.loads((run / "run.json").read_text())
    assert facts["tokenization"] == {"end": end, "begin": [], "special_tokens": "text"}
    assert end_everywhere(run, tmp_path) == {end}
    assert f"`{asked}` (token {end})" in (tmp_path / "hf" / "README.md").read_text()
    written_by(run)
    text = tmp_path / "text.txt"
    text.write_text(TEXTS[3])
    (found,) = evaluate([run], ["icl_tasks_config=empty"], wanted=Wanted((text,)))
    assert not found.failures


def test_data_of_which_no_end_is_known_is_refused_before_training(
    make_tokenizer, make_data, make_run, tmp_path
):
    data = make_data(make_tokenizer("[STOP]"), eos_text="[STOP]")
    manifest = json.loads((data / "manifest.json").read_text())
    del manifest["tokenization"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert load_saved_model(make_run(data, "fl.n_rounds=1")).encoder.end == 0  # older data: asked
    manifest["settings"]["eos_text"] = None
    (data / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"has no token .*dataset\.prepare\.eos_text=TOKEN; prep"):
        make_run(data, "run_uuid=other")
    with pytest.raises(DataError, match=r"has no token .*dataset\.prepare\.eos_text=TOKEN$"):
        make_data(make_tokenizer("[STOP]"), "nameless")
    assert not (tmp_path / "runs" / "other").exists()


def test_a_tokenizers_own_rules_change_nothing(make_tokenizer, make_data, make_run, tmp_path):
    """Truncation to 4, padding to 6, and `<s>` before a text: no training row has any of it."""
    run = make_run(make_data(make_tokenizer("</s>", "<s>", awkward=True)))
    encoder = load_language_model(run).encoder
    plain = Tokenizer.from_file(str(make_tokenizer("</s>", "<s>")))
    plain.encode_special_tokens = True
    rows = Rows(run.parent.parent / "data" / "client_0" / "train")
    stream = [int(t) for row in rows.read(np.arange(len(rows))) for t in row[:-1]]
    documents = " ".join(map(str, stream))
    begin = plain.token_to_id("<s>")
    assert begin not in stream
    whole = [text for text in TEXTS if " ".join(map(str, encoder.opening(text))) in documents]
    assert len(whole) > 10  # the prompt of `generate` is a document as it was trained on
    for text in (*TEXTS[:5], "", "a"):
        assert encoder.opening(text) == encoder.ids(text) == plain.encode(text).ids
    candidate = open_candidate(run, [], choose_device("cpu"))
    assert candidate.encoder.opening(TEXTS[0]) == encoder.opening(TEXTS[0])
    export_folder(run, tmp_path / "hf")
    exported = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    exported.encode_special_tokens = True
    assert exported.encode(TEXTS[0]).ids == encoder.ids(TEXTS[0])


def test_what_comes_before_each_document_comes_before_a_prompt(
    make_tokenizer, make_data, make_run, tmp_path
):
    run = make_run(make_data(make_tokenizer("</s>", "<s>"), bos_text="<s>"))
    encoder = load_language_model(run).encoder
    begin = encoder.tokenizer.token_to_id("<s>")
    assert encoder.opening("a") == [begin, *encoder.ids("a")]
    export_folder(run, tmp_path / "hf")
    exported = Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json"))
    assert exported.encode("a").ids == encoder.opening("a")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (begin, encoder.end)


def test_an_older_run_says_what_is_taken(make_tokenizer, make_data, make_run):
    run = make_run(make_data(make_tokenizer("</s>")))
    facts = json.loads((run / "run.json").read_text())
    for key in ("tokenization", "tokenizer"):
        del facts[key]
    (run / "run.json").write_text(json.dumps(facts))
    with pytest.warns(PhotonNote, match="taken to end with '</s>'"):
        assert load_saved_model(run).encoder.end == 0


def test_another_tokenizer_in_a_run_folder_is_refused(make_tokenizer, make_data, make_run):
    run = make_run(make_data(make_tokenizer("</s>")))
    (run / "tokenizer.json").write_bytes(make_tokenizer("<eos>").read_bytes())
    with pytest.raises(CorruptCheckpoint, match="not the tokenizer that the model was trained"):
        load_saved_model(run)


def test_a_node_with_another_separator_is_refused(make_tokenizer, make_data, smoke):
    tokenizer = make_tokenizer("<|endoftext|>", "</s>")
    made = [smoke(f"dataset.train.root_local={make_data(tokenizer, name, eos_text=end)}")
            for name, end in (("a", "</s>"), ("b", "<|endoftext|>"))]  # fmt: skip
    theirs, other = (RunData.of(one.data, one.inner, one.seed) for one in made)
    expected = data_facts(theirs)
    _require_same_data(theirs, expected)
    with pytest.raises(MismatchedCheckpoint, match=r"has tokenization .*separator"):
        _require_same_data(other, expected)


def test_tokens_made_elsewhere_end_with_the_separator_that_occurs(make_tokenizer):
    known = Tokenizer.from_file(str(make_tokenizer("<|endoftext|>", "</s>")))
    second = known.token_to_id("</s>")
    assert of_occurrence(known, {0: 1, second: 9}).end == second
    own = Tokenizer.from_file(str(make_tokenizer("[PAD]", "[STOP]")))
    assert of_occurrence(own, {own.token_to_id("[STOP]"): 4}).end == own.token_to_id("[STOP]")
    with pytest.raises(DataError, match="has no token"):
        of_occurrence(own, {})


def test_a_foreign_tokenizer_opens_a_prompt_as_its_template_does(make_tokenizer):
    awkward = Tokenizer.from_file(str(make_tokenizer("</s>", "<s>", awkward=True)))
    facts = of_foreign(awkward, 0)
    assert facts == Tokenization(
        end=0, begin=(awkward.token_to_id("<s>"),), specials_are_text=False
    )
    assert Encoder(awkward, facts).ids("<s>") == [awkward.token_to_id("<s>")]


def test_a_continuation_is_given_to_its_end_also_amid_a_character(make_tokenizer, monkeypatch):
    """Each byte of what it has not seen is a token; the euro sign has three."""
    tokenizer = Tokenizer.from_file(str(make_tokenizer("</s>")))
    encoder = Encoder(tokenizer, resolved(tokenizer))
    ids = encoder.ids("\u20acx\u20ac")
    assert len(ids) == 7

    def pieces(count: int) -> list[str]:
        monkeypatch.setattr(inference, "generate", lambda *_, **__: iter(ids[:count]))
        writer = inference.Writer(None, encoder)  # pyright: ignore[reportArgumentType]
        return list(continue_text(writer, "cat", max_new_tokens=count))

    assert pieces(7) == ["\u20ac", "x", "\u20ac"]
    assert pieces(6) == ["\u20ac", "x", "\ufffd"]
    assert pieces(0) == []


@pytest.mark.parametrize("name", ["<|role:user|>", "$A", "a:1"])
def test_an_exported_tokenizer_opens_a_text_with_whatever_its_token_is_called(make_tokenizer, name):
    tokenizer = Tokenizer.from_file(str(make_tokenizer("</s>", name)))
    encoder = Encoder(tokenizer, resolved(tokenizer, bos_text=name))
    assert encoder.for_prompts().encode("cat").ids == encoder.opening("cat")


@pytest.mark.parametrize(
    "facts", [None, [], {}, {"end": "0", "begin": [], "special_tokens": "text"}]
)
def test_damaged_facts_are_named(tmp_path, facts):
    with pytest.raises(DataError, match="its tokenization"):
        Tokenization.from_json(facts, tmp_path)
