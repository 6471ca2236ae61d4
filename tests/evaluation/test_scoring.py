"""Scores against a scorer that runs one forward pass for every answer, and against hand counts."""

from __future__ import annotations

import math

import pytest
import torch

from photon.config.evaluation import IclTask
from photon.evaluation.evaluate import Settings, evaluate_task
from photon.evaluation.generation import continuations
from photon.evaluation.likelihood import Likelihood, Passes, likelihoods
from photon.evaluation.loss import Share
from photon.evaluation.requests import ScoredText
from photon.evaluation.scoring import (
    accuracy_of,
    gold_probability,
    judge_choice,
    judge_exact,
    judge_text,
    majority,
    mean_and_error,
    normalize,
)
from photon.evaluation.tasks import (
    GENERATION,
    LANGUAGE_MODELING,
    MULTIPLE_CHOICE,
    SCHEMA,
    make_prompts,
    read_rows,
)
from photon.model.generate import generate

FAMILIES = {
    "llama": {},
    "grouped": {"attn_config": {"kv_n_heads": 2}},
    "learned positions": {"name": "mpt_causal_lm"},
    "alibi": {"name": "mpt_causal_lm", "attn_config": {"alibi": True, "attn_impl": "torch"}},
}
ANIMALS = ["the cat", "a dog", "it", "a red house", "the mat"]
ROWS = {
    LANGUAGE_MODELING: [
        {"context": f"{a} sat on", "continuation": f"{b} and"} for a in ANIMALS for b in ANIMALS[:2]
    ],
    MULTIPLE_CHOICE: [
        {"query": f"where did {a} go", "choices": [*ANIMALS[n % 3 :], a], "gold": n % 3}
        for n, a in enumerate(ANIMALS)
    ],
    SCHEMA: [
        {"context_options": [f"{a} ran because the cat", f"{a} ran because the dog"],
         "continuation": "was cold", "gold": n % 2}
        for n, a in enumerate(ANIMALS)
    ],
}  # fmt: skip


@torch.no_grad()
def brute_force(model, ids: list[int], num_answer: int) -> tuple[float, bool]:
    """Loss of the last tokens by one forward pass over everything, and whether they are greedy."""
    log_probs = torch.log_softmax(model(torch.tensor([ids]))[0].double(), dim=-1)
    places = range(len(ids) - num_answer, len(ids))
    loss = -sum(float(log_probs[at - 1, ids[at]]) for at in places)
    return loss, all(int(log_probs[at - 1].argmax()) == ids[at] for at in places)


def requests_of(model_seed: int) -> list[list[ScoredText]]:
    """Groups with common beginnings, and without."""
    draw = torch.Generator().manual_seed(model_seed)

    def ids(count: int, most: int) -> list[int]:
        return torch.randint(0, most, (count,), generator=draw).tolist()

    groups = []
    for size in (1, 2, 4, 3, 2, 1, 4):
        context = ids(3 + 5 * size, 300)
        answers = [ids(1 + number % 3, 2) for number in range(size)]
        groups.append([ScoredText((*context, *answer), len(answer)) for answer in answers])
    groups.append([ScoredText(tuple(ids(9, 300)), 2) for _ in range(3)])
    return groups


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [1, 60, 8192])
def test_likelihoods_are_those_of_single_passes(make_model, family, max_tokens):
    model, groups = make_model(**FAMILIES[family]), requests_of(3)
    scored = likelihoods(model, groups, Passes(max_tokens=max_tokens))
    for group, scores in zip(groups, scored, strict=True):
        for request, score in zip(group, scores, strict=True):
            loss, is_greedy = brute_force(model, list(request.ids), request.num_answer)
            assert score.nll == pytest.approx(loss, rel=1e-4)
            assert (score.num_tokens, score.is_greedy) == (request.num_answer, is_greedy)


def test_processes_share_the_batches(make_model):
    model, groups = make_model(), requests_of(5)
    parts = []

    def shared(rank: int):
        share = Share(rank, 2, lambda sums: parts.append(sums) or sums)
        return likelihoods(model, groups, Passes(max_tokens=40, share=share))

    shared(0), shared(1)
    whole = [score.nll for group in likelihoods(model, groups) for score in group]
    unique = dict.fromkeys(r for group in groups for r in group)
    assert len(unique) == len(whole)
    assert (parts[0][0] + parts[1][0]).tolist() == pytest.approx(whole, rel=1e-4)
    assert bool((parts[0][0] == 0).any())


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_tasks_against_brute_force(make_model, make_task, encoder, kind, num_fewshot):
    task, path = make_task(kind, ROWS[kind], continuation_delimiter=": ")
    model, rows = make_model(), read_rows(path, task)
    score, samples = evaluate_task(
        model, encoder, task, rows, num_fewshot, settings=Settings(96), passes=Passes()
    )
    right = []
    for prompt, sample in zip(make_prompts(task, rows, num_fewshot), samples, strict=True):
        scores = []
        for (context, answer), got in zip(prompt.pairs, sample.scores, strict=True):
            tail = encoder.ids(" " + answer)
            ids = encoder.ids(prompt.preamble) + encoder.ids(context) + tail
            loss, is_greedy = brute_force(model, ids, len(tail))
            assert got.nll == pytest.approx(loss, rel=1e-4)
            scores.append((loss / len(tail), is_greedy))
        if kind == LANGUAGE_MODELING:
            right.append(float(scores[0][1]))
        else:
            right.append(float(min(scores)[0] == scores[prompt.gold][0]))
    assert score.accuracy == pytest.approx(sum(right) / len(right))
    assert score.n == len(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [1, 60, 8192])
def test_generated_together_as_alone(make_model, monkeypatch, family, max_tokens):
    model = make_model(**FAMILIES[family])
    prompts = [[n, 2 * n, 5] * (n % 4 + 1) for n in range(1, 8)]
    end = next(iter(generate(model, prompts[2], max_new_tokens=1, temperature=0)))
    got = continuations(
        model, prompts, max_new_tokens=9, end=end, passes=Passes(max_tokens=max_tokens)
    )
    monkeypatch.setattr(model, "new_cache", lambda: None)
    alone = [
        list(generate(model, prompt, max_new_tokens=9, temperature=0, stop=end))
        for prompt in prompts
    ]
    assert got == alone
    assert got[2] == []


def test_processes_share_the_prompts(make_model):
    model, prompts = make_model(), [[n, 5] * (n % 3 + 1) for n in range(1, 7)]
    alone = continuations(model, prompts, max_new_tokens=4, end=-2, passes=Passes(max_tokens=1))
    parts: list = []

    def shared(rank: int, others: list):
        share = Share(rank, 2, lambda sums: parts.append(sums) or sum([sums, *others]))
        passes = Passes(max_tokens=1, share=share)
        return continuations(model, prompts, max_new_tokens=4, end=-2, passes=passes)

    shared(0, [])
    assert shared(1, parts[:1]) == alone


def test_generation_task(make_model, make_task, encoder):
    model = make_model()
    contexts = ["the cat sat", "a dog ran to"]
    texts = []
    for context in contexts:
        ids = generate(model, encoder.ids(context), max_new_tokens=6, temperature=0, stop=0)
        texts.append(encoder.text(list(ids)))
    rows = [
        {"context": contexts[0], "answer": "no such text" * 2, "aliases": [texts[0][:9]]},
        {"context": contexts[1], "answer": "no such text" * 2},
    ]
    task, path = make_task(GENERATION, rows, do_normalization=False)
    score, samples = evaluate_task(
        model, encoder, task, read_rows(path, task), 0, settings=Settings(96), passes=Passes()
    )
    assert [sample.outcome.credit for sample in samples] == [1.0, 0.0]
    assert score.accuracy == 0.5
    assert samples[0].outcome.prediction.startswith(texts[0].strip())


def test_categories_weigh_the_same(make_model, make_task, encoder):
    rows = [{**row, "category": "one" if n == 0 else "two"}
            for n, row in enumerate(ROWS[MULTIPLE_CHOICE])]  # fmt: skip
    task, path = make_task(MULTIPLE_CHOICE, rows, has_categories=True)
    score, samples = evaluate_task(
        make_model(), encoder, task, read_rows(path, task), 0,
        settings=Settings(96), passes=Passes(),
    )  # fmt: skip
    credits = [sample.outcome.credit for sample in samples]
    assert score.accuracy == pytest.approx((credits[0] + sum(credits[1:]) / 4) / 2)
    assert score.categories == {"one": (credits[0], 1), "two": (sum(credits[1:]) / 4, 4)}
    limited = Settings(96, limit=1)
    few, _ = evaluate_task(
        make_model(), encoder, task, read_rows(path, task), 0, settings=limited, passes=Passes()
    )
    assert few.n == 2


def score(nll: float, tokens: int = 1, is_greedy: bool = False) -> Likelihood:
    return Likelihood(nll, tokens, tokens if is_greedy else 0)


def test_least_mean_loss_wins():
    scores = [score(3.0), score(4.0, 2), score(2.5)]
    assert judge_choice(scores, 1).credit == 1.0
    assert judge_choice(scores, 2).credit == 0.0


def test_ties_share_the_credit_but_the_original_takes_the_first():
    scores = [score(2.0), score(4.0, 2), score(5.0)]
    assert [judge_choice(scores, gold).credit for gold in (0, 1, 2)] == [0.5, 0.5, 0.0]
    assert [judge_choice(scores, gold, parity=True).credit for gold in (0, 1)] == [1.0, 0.0]


def test_a_model_without_numbers_is_wrong_and_counted():
    scores = [score(math.nan), score(math.nan)]
    ours, original = judge_choice(scores, 0), judge_choice(scores, 0, parity=True)
    assert (ours.credit, ours.is_finite) == (0.0, False)
    assert original.credit == 1.0
    assert judge_choice([score(1.0), score(math.inf)], 0).credit == 0.0
    assert judge_exact(score(math.nan, is_greedy=True)).credit == 0.0


def test_a_constant_model_gets_chance(make_model, make_task, encoder):
    """The first choice is right everywhere, but the model does not know that."""
    rows = [{"query": "q", "choices": ["cat", "dog"], "gold": 0}] * 3
    rows = [{**row, "choices": [" cat", "cat"]} for row in rows]
    task, path = make_task(MULTIPLE_CHOICE, rows)
    result, _ = evaluate_task(
        make_model(), encoder, task, read_rows(path, task), 0,
        settings=Settings(96), passes=Passes(),
    )  # fmt: skip
    assert (result.accuracy, result.majority, result.chance) == (0.5, 1.0, 0.5)


def test_nan_weights_are_counted(make_model, make_task, encoder):
    model = make_model()
    next(model.parameters()).data.fill_(math.nan)
    task, path = make_task(MULTIPLE_CHOICE, ROWS[MULTIPLE_CHOICE])
    result, _ = evaluate_task(
        model, encoder, task, read_rows(path, task), 0, settings=Settings(96), passes=Passes()
    )
    assert (result.accuracy, result.nonfinite, result.n) == (0.0, 5, 5)


def generation_task(**keys) -> IclTask:
    shared = {"label": "g", "dataset_uri": "g", "num_fewshot": [0]}
    return IclTask.model_validate({"icl_task_type": GENERATION, **shared, **keys})


@pytest.mark.parametrize(
    ("text", "labels", "keys", "credit"),
    [
        (" The_Tower of London!", ["tower of london"], {}, 1.0),
        ("tower bridge", ["tower of london", "Tower"], {}, 1.0),
        ("a bridge", ["tower"], {}, 0.0),
        ("18", ["1"], {"do_normalization": False}, 1.0),
        ("x. The answer is 7\n\nno", ["7"],
         {"cot_delimiter": "The answer is ", "early_stopping_criteria": ["\n\n"]}, 1.0),
        ("7\n\nThe answer is 8", ["8"],
         {"cot_delimiter": "The answer is ", "early_stopping_criteria": ["\n\n"]}, 0.0),
        ("word", ["the"], {}, 0.0),
        ("a.b", ["a.b"], {"early_stopping_criteria": ["."], "do_normalization": False}, 0.0),
    ],
)  # fmt: skip
def test_text_answers(text, labels, keys, credit):
    assert judge_text(generation_task(**keys), text, labels).credit == credit


def test_the_originals_text_answers():
    assert judge_text(generation_task(), "word", ["the"], parity=True).credit == 1.0
    dots = generation_task(early_stopping_criteria=["."], do_normalization=False)
    assert judge_text(dots, "ab", ["ab"]).credit == 1.0
    assert judge_text(dots, "ab", ["ab"], parity=True).credit == 0.0


def test_normalize():
    assert normalize("  The Cat_and ‘an’ owl´s a\tmat. ") == "cat and owl s mat"


def test_statistics_by_hand():
    mean, error = mean_and_error([1.0, 0.0, 0.0, 1.0])
    assert (mean, error) == (0.5, pytest.approx(math.sqrt(1 / 3 / 4)))
    mean, error = accuracy_of([[1.0, 0.0], [1.0]])
    assert (mean, error) == (0.75, pytest.approx(0.25))
    assert majority([[0, 0, 1], [1]]) == pytest.approx((1 / 3 + 1) / 2)
    assert gold_probability([score(math.log(4)), score(math.log(4)), score(math.log(2))], 2) == (
        pytest.approx(0.5)
    )
