"""One task from its rows to its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from photon.config.evaluation import IclTask
from photon.data.prepare.encode import Encoder
from photon.errors import DataError
from photon.evaluation.generation import continuations
from photon.evaluation.likelihood import Likelihood, Passes, likelihoods
from photon.evaluation.requests import (
    Example,
    longest_answer,
    make_example,
    make_generation,
)
from photon.evaluation.scoring import (
    Outcome,
    TaskScore,
    accuracy_of,
    chance_of,
    gold_probability,
    judge_choice,
    judge_exact,
    judge_text,
    majority,
    stop_pattern,
)
from photon.evaluation.tasks import (
    GENERATION,
    LANGUAGE_MODELING,
    Prompt,
    Row,
    by_category,
    make_prompts,
)
from photon.model.build import LanguageModel


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of an evaluation have in common.

    Attributes:
        max_seq_len: longest prompt with its answer.
        limit: first rows of a task that are scored; None: all.
    """

    max_seq_len: int
    limit: int | None = None
    parity: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model did with one row.

    Attributes:
        scores: of its choices, or of its answer; none for generation.
    """

    line: int
    category: str
    gold: Any
    scores: tuple[Likelihood, ...]
    outcome: Outcome
    is_truncated: bool
    answer_bytes: int


def evaluate_task(
    model: LanguageModel,
    encoder: Encoder,
    task: IclTask,
    rows: Sequence[Row],
    num_fewshot: int,
    *,
    settings: Settings,
    passes: Passes,
) -> tuple[TaskScore, list[Sample]]:
    """Score a task with so many examples in each prompt.

    Raises:
        DataError: a row that cannot be put to the model; the message names its line.
    """
    categories = by_category(task, rows)
    total, samples = len(rows), []
    for category, part in categories.items():
        done = len(samples)
        within = replace(passes, progress=_within(passes, done / total, len(part) / total))
        put = _put(encoder, task, part, num_fewshot, settings)
        if task.icl_task_type == GENERATION:
            samples += _generate(model, encoder, task, put, settings, within, category)
        else:
            samples += _choose(model, task, put, settings, within, category)
    return summarize(samples), samples


def _within(passes: Passes, start: float, size: float):
    return lambda done: passes.progress(start + size * done)


@dataclass(frozen=True, slots=True)
class _Put:
    """The rows of a category as they are put to a model.

    Attributes:
        room: most tokens of an answer that is generated.
    """

    prompts: list[Prompt]
    examples: list[Example]
    room: int


def check_task(
    encoder: Encoder, task: IclTask, rows: Sequence[Row], num_fewshot: int, settings: Settings
) -> None:
    """Tokenise a task as `evaluate_task` does, and score nothing.

    Raises:
        DataError: a row that cannot be put to the model; the message names its line.
    """
    for part in by_category(task, rows).values():
        _put(encoder, task, part, num_fewshot, settings)


def _put(
    encoder: Encoder, task: IclTask, rows: Sequence[Row], num_fewshot: int, settings: Settings
) -> _Put:
    prompts = list(make_prompts(task, rows, num_fewshot, parity=settings.parity))
    if not (settings.parity and task.has_categories):
        prompts = prompts[: settings.limit]
    length = min(settings.max_seq_len, task.max_seq_len or settings.max_seq_len)
    try:
        if task.icl_task_type != GENERATION:
            return _Put(prompts, [make_example(encoder, one, length) for one in prompts], 0)
        longest = longest_answer(encoder, task, rows)
        if longest >= length:
            raise DataError(
                f"answers have up to {longest} tokens, which leaves no room for prompts in {length}"
            )
        examples = [make_generation(encoder, one, length - longest) for one in prompts]
        return _Put(prompts, examples, longest)
    except DataError as error:
        raise DataError(f"{task.label}, {task.dataset_uri}: {error}") from error


def _choose(
    model: LanguageModel,
    task: IclTask,
    put: _Put,
    settings: Settings,
    passes: Passes,
    category: str,
) -> list[Sample]:
    scores = likelihoods(model, [example.requests for example in put.examples], passes)
    samples = []
    for example, prompt, answers in zip(put.examples, put.prompts, scores, strict=True):
        if task.icl_task_type == LANGUAGE_MODELING:
            outcome, gold = judge_exact(answers[0]), prompt.pairs[0][1]
        else:
            outcome = judge_choice(answers, example.gold, parity=settings.parity)
            gold = example.gold
        samples.append(_sample(example, category, gold, tuple(answers), outcome))
    return samples


def _generate(
    model: LanguageModel,
    encoder: Encoder,
    task: IclTask,
    put: _Put,
    settings: Settings,
    passes: Passes,
    category: str,
) -> list[Sample]:
    stop = stop_pattern(task, parity=settings.parity)
    texts = continuations(
        model,
        [example.requests[0].ids for example in put.examples],
        max_new_tokens=put.room,
        end=encoder.end,
        is_finished=lambda ids: stop is not None and bool(stop.search(encoder.text(ids))),
        passes=passes,
    )
    samples = []
    for example, ids in zip(put.examples, texts, strict=True):
        outcome = judge_text(task, encoder.text(ids), example.labels, parity=settings.parity)
        samples.append(_sample(example, category, list(example.labels), (), outcome))
    return samples


def _sample(
    example: Example, category: str, gold: Any, scores: tuple[Likelihood, ...], outcome: Outcome
) -> Sample:
    return Sample(
        example.line, category, gold, scores, outcome, example.is_truncated, example.answer_bytes
    )


def summarize(samples: Sequence[Sample]) -> TaskScore:
    """The task's score: with categories, of their unweighted mean."""
    names = sorted({sample.category for sample in samples})
    parts = [[sample for sample in samples if sample.category == name] for name in names]
    credits = [[sample.outcome.credit for sample in part] for part in parts]
    accuracy, stderr = accuracy_of(credits)
    chosen = [sample for sample in samples if len(sample.scores) > 1]
    categories = {
        name: (sum(part) / len(part), len(part)) for name, part in zip(names, credits, strict=True)
    }
    return TaskScore(
        accuracy=accuracy,
        stderr=stderr,
        majority=majority([[_hashable(sample.gold) for sample in part] for part in parts]),
        chance=chance_of([len(sample.scores) for sample in samples]),
        n=len(samples),
        truncated=sum(sample.is_truncated for sample in samples),
        nonfinite=sum(not sample.outcome.is_finite for sample in samples),
        bits_per_byte=_bits_per_byte(samples),
        gold_probability=_mean_probability(chosen),
        categories=categories if names != [""] else None,
    )


def _hashable(gold: Any) -> Any:
    return gold[0] if isinstance(gold, list) else gold


def _gold_score(sample: Sample) -> Likelihood:
    return sample.scores[sample.gold if len(sample.scores) > 1 else 0]


def _bits_per_byte(samples: Sequence[Sample]) -> float | None:
    if not samples[0].scores:
        return None
    loss = sum(_gold_score(sample).nll for sample in samples)
    return loss / (math.log(2) * sum(sample.answer_bytes for sample in samples))


def _mean_probability(samples: Sequence[Sample]) -> float | None:
    if not samples:
        return None
    return sum(gold_probability(s.scores, s.gold) for s in samples) / len(samples)
