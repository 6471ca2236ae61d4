"""Rows, examples, texts and tokens of tasks, by hand."""

from __future__ import annotations

from itertools import islice

import pytest

from photon.data.prepare.encode import Encoder
from photon.data.tokenization import of_foreign, resolved
from photon.errors import DataError
from photon.evaluation.requests import encode_prompt, longest_answer
from photon.evaluation.tasks import (
    GENERATION,
    LANGUAGE_MODELING,
    MULTIPLE_CHOICE,
    SCHEMA,
    by_category,
    draw_examples,
    find_file,
    make_prompts,
    read_rows,
)

CHOICE = {"query": " Q1 ", "choices": ["yes", "no "], "gold": 1}


def prompt_of(made, num_fewshot=0, **keys):
    task, path = made
    return list(make_prompts(task, read_rows(path, task), num_fewshot, **keys))


def test_examples_are_the_originals():
    """Drawn by the published code, seed 1234."""
    assert list(islice(draw_examples(2376, 3, 1234), 4)) == [
        [1805, 478, 30], [371, 343, 143], [969, 403, 1452], [64, 126, 71],
    ]  # fmt: skip
    assert list(islice(draw_examples(273, 3, 1234), 3)) == [
        [3, 225, 59], [17, 42, 46], [121, 50, 181],
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "count"), [(1, 3), (2, 5), (5, 3), (9, 8)])
def test_no_row_is_its_own_example(rows, count):
    for index, chosen in enumerate(draw_examples(rows, count, 7)):
        assert index not in chosen
        assert len(set(chosen)) == len(chosen) == min(rows - 1, count)


def test_choices(make_task):
    rows = [CHOICE, {"query": "Q2", "choices": ["up", "down"], "gold": 0}]
    keys = {"prompt_string": "Go.", "prelimiter": "R: ", "continuation_delimiter": "\nA: "}
    first, second = prompt_of(make_task(MULTIPLE_CHOICE, rows, **keys), 1)
    assert first.preamble == "Go.\nR: Q2\nA: up"
    assert first.pairs == (("\nR: Q1\nA:", "yes"), ("\nR: Q1\nA:", "no "))
    assert first.gold == 1
    assert second.preamble == "Go.\nR: Q1\nA: no "


def test_unstripped_rows_keep_their_spaces(make_task):
    (prompt,) = prompt_of(make_task(MULTIPLE_CHOICE, [CHOICE], strip_dataset=False))
    assert prompt.pairs[0] == (" Q1  ", "yes")


def test_schema(make_task):
    rows = [
        {"context_options": ["He", "She"], "continuation": "ran.", "gold": 1},
        {"context_options": ["Cats", "Dogs"], "continuation": "sat.", "gold": 0},
    ]
    assert prompt_of(make_task(SCHEMA, rows))[0].pairs == (("He", "ran."), ("She", "ran."))
    made = make_task(SCHEMA, rows, prelimiter="R:", continuation_delimiter=": ")
    ours, original = prompt_of(made, 1)[0], prompt_of(made, 1, parity=True)[0]
    assert ours.preamble == original.preamble == "R:Cats: sat."
    assert ours.pairs[1] == ("\nR:She:", "ran.")
    assert original.pairs[1] == ("R:\nShe:", "ran.")


def test_reasoning_is_part_of_an_examples_answer(make_task, encoder):
    rows = [
        {"context": "1+1?", "answer": "2", "chain_of_thought": "one and one.", "aliases": ["two"]},
        {"context": "2+2?", "answer": "4", "chain_of_thought": "two and two."},
    ]
    made = make_task(GENERATION, rows, cot_delimiter=" So ")
    second = prompt_of(made, 1)[1]
    assert second.preamble == "1+1? one and one. So 2"
    assert second.pairs == (("\n2+2?", "4"),)
    assert prompt_of(made)[0].labels == ("2", "two")
    answers = ("one and one. So 2", "one and one. So two", "two and two. So 4")
    longest = max(len(encoder.ids(answer)) for answer in answers)
    assert longest_answer(encoder, made[0], read_rows(made[1], made[0])) == longest + 10


def test_categories_are_apart(make_task):
    rows = [{"context": str(n), "continuation": "x", "category": "ba"[n % 2]} for n in range(4)]
    task, path = make_task(LANGUAGE_MODELING, rows, has_categories=True)
    parts = by_category(task, read_rows(path, task))
    assert {name: [row["context"] for row in part] for name, part in parts.items()} == {
        "a": ["1", "3"],
        "b": ["0", "2"],
    }
    assert list(parts) == ["a", "b"]


GOOD = {"context": "a", "continuation": "b"}
BAD_ROWS = [
    (LANGUAGE_MODELING, [GOOD, {"context": "a"}], ":2: has no 'continuation'"),
    (LANGUAGE_MODELING, [{"context": 3, "continuation": "b"}], ":1: 'context' must be a text"),
    (MULTIPLE_CHOICE, [{**CHOICE, "gold": 2}], ":1: 'gold' must be a number from 0 to 1"),
    (MULTIPLE_CHOICE, [{**CHOICE, "gold": True}], ":1: 'gold' must be"),
    (MULTIPLE_CHOICE, [{**CHOICE, "choices": []}], ":1: 'choices' must be texts"),
    (SCHEMA, [{"continuation": "b", "gold": 0}], ":1: has no 'context_options'"),
    (GENERATION, [{"context": "a", "answer": "b", "aliases": "c"}], ":1: 'aliases' must be"),
    (GENERATION, [{"context": "a", "answer": "b", "chain_of_thought": "c"},
                  {"context": "a", "answer": "b"}], ":2: has no 'chain_of_thought'"),
    (GENERATION, [{"context": "a", "answer": "b", "chain_of_thought": ["c"]}],
     ":1: 'chain_of_thought' must be a text"),
    (LANGUAGE_MODELING, [[1]], ":1: is no JSON object"),
    (LANGUAGE_MODELING, [], "has no rows"),
    ("essay", [GOOD], "unknown icl_task_type 'essay'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rows", "message"), BAD_ROWS)
def test_bad_rows_are_named(make_task, kind, rows, message):
    task, path = make_task(kind, rows)
    with pytest.raises(DataError) as caught:
        read_rows(path, task)
    assert message in str(caught.value)


def test_no_json_is_named(make_task):
    task, path = make_task(LANGUAGE_MODELING, [GOOD])
    path.write_text('{"context": "a", "continuation": "b"}\n\n{"context"\n')
    with pytest.raises(DataError, match=":3: is no JSON"):
        read_rows(path, task)


def test_files_are_found_in_the_originals_tree_and_in_its_data_folder(tmp_path):
    uri = "eval/local_data/world/x.jsonl"
    for place in (uri, "world/x.jsonl"):
        root = tmp_path / place.replace("/", "-")
        (root / place).parent.mkdir(parents=True)
        (root / place).touch()
        assert find_file(root, uri) == root / place
    with pytest.raises(DataError, match="no such task file"):
        find_file(tmp_path, uri)


def test_pieces_are_tokenised_apart(make_task, encoder):
    (prompt,) = prompt_of(make_task(MULTIPLE_CHOICE, [CHOICE]))
    example = encode_prompt(encoder, prompt, 96)
    assert encoder.needs_space
    for request, answer in zip(example.requests, (" yes", " no "), strict=True):
        assert list(request.ids) == encoder.ids("Q1") + encoder.ids(answer)
        assert request.num_answer == len(encoder.ids(answer))
    assert example.answer_bytes == len(" no ")
    assert not example.is_truncated


def test_long_prompts_lose_their_beginning(make_task, encoder):
    rows = [{"context": "the cat sat on a mat", "continuation": "because"}]
    (prompt,) = prompt_of(make_task(LANGUAGE_MODELING, rows))
    whole, answer = encoder.ids("the cat sat on a mat"), encoder.ids(" because")
    example = encode_prompt(encoder, prompt, len(answer) + 2)
    assert list(example.requests[0].ids) == whole[-2:] + answer
    assert example.is_truncated
    exact = encode_prompt(encoder, prompt, len(whole) + len(answer))
    assert not exact.is_truncated
    with pytest.raises(DataError, match="line 1: an answer has"):
        encode_prompt(encoder, prompt, len(answer))


def test_an_empty_context_is_named(make_task, encoder):
    (prompt,) = prompt_of(make_task(LANGUAGE_MODELING, [{"context": "", "continuation": "b"}]))
    with pytest.raises(DataError, match="line 1: the context has no tokens"):
        encode_prompt(encoder, prompt, 96)


def test_special_tokens_open_the_preamble_only(tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    special = Tokenizer.from_str(tokenizer.to_str())
    special.add_special_tokens(["<s>"])
    bos, end = special.token_to_id("<s>"), special.token_to_id("<|endoftext|>")
    special.post_processor = TemplateProcessing(
        single="<s> $A <|endoftext|>", special_tokens=[("<s>", bos), ("<|endoftext|>", end)]
    )
    special.enable_truncation(4)
    encoder = Encoder(special, of_foreign(special, end))
    assert encoder.opening("") == [bos]
    assert encoder.opening("cat") == [bos, *encoder.ids("cat")]
    own = Encoder(tokenizer, resolved(tokenizer))
    assert encoder.ids("the cat sat on a mat") == own.ids("the cat sat on a mat")
