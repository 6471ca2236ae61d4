"""One task from its rows to its score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from photon.config.evaluation import IclTask, Scoring
from photon.data.prepare.encode import Encoder
from photon.errors import DataError
from photon.evaluation.generation import continuations
from photon.evaluation.likelihood import Likelihood, Passes, likelihoods
from photon.evaluation.loss import DoneCallback
from photon.evaluation.requests import (
    EncodedPrompt,
    encode_for_generation,
    encode_prompt,
    longest_answer,
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
    TaskRow,
    by_category,
    make_prompts,
)
from photon.model.build import LanguageModel


@dataclass(frozen=True, slots=True)
class Settings:
    """What all tasks of an evaluation have in common.

    Attributes:
        max_seq_len: most tokens of a prompt with its answer.
        limit: how many rows are scored, the first ones of a task or of each of its categories;
            None: all.
        parity: score as the Eval Gauntlet does also where it lets a broken model win.
    """

    max_seq_len: int
    limit: int | None = None
    parity: bool = False

    @classmethod
    def of(cls, keys: Scoring, positions: int) -> Settings:
        """The settings that a configuration asks for, of a model with that many positions."""
        return cls(min(keys.max_positions or positions, positions), keys.limit, keys.parity)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model did with one row.

    Attributes:
        prompt: what it was given.
        gold: index of the right choice; the right answer of language modelling; all right answers
            of generation.
        scores: of the row's choices, or of its answer; none for generation.
        category: of the row; empty where the task has none.
    """

    prompt: EncodedPrompt
    gold: Any
    scores: tuple[Likelihood, ...]
    outcome: Outcome
    category: str = ""


def evaluate_task(
    model: LanguageModel,
    encoder: Encoder,
    task: IclTask,
    rows: Sequence[TaskRow],
    num_fewshot: int,
    *,
    settings: Settings,
    passes: Passes,
) -> tuple[TaskScore, list[Sample]]:
    """Score a task, with `num_fewshot` examples in each prompt.

    Raises:
        DataError: a row that cannot be put to the model; the message names its line.
    """
    samples: list[Sample] = []
    total = len(rows)
    score = _generate if task.icl_task_type == GENERATION else _choose
    for category, part in by_category(task, rows).items():
        within = replace(passes, progress=_within(passes, len(samples) / total, len(part) / total))
        prompts = _encode(encoder, task, part, num_fewshot, settings)
        found = score(model, encoder, task, prompts, settings, within)
        samples += [replace(sample, category=category) for sample in found]
    return summarize(samples), samples


def _within(passes: Passes, start: float, size: float) -> DoneCallback:
    """Progress of a piece of the work, told as that of the whole."""
    return lambda done: passes.progress(start + size * done)


def check_task(
    encoder: Encoder, task: IclTask, rows: Sequence[TaskRow], num_fewshot: int, settings: Settings
) -> None:
    """Tokenise a task as `evaluate_task` does, and score nothing.

    Raises:
        DataError: a row that cannot be put to the model; the message names its line.
    """
    for part in by_category(task, rows).values():
        _encode(encoder, task, part, num_fewshot, settings)


def _encode(
    encoder: Encoder, task: IclTask, rows: Sequence[TaskRow], num_fewshot: int, settings: Settings
) -> list[EncodedPrompt]:
    """The rows of a category as they are put to a model."""
    prompts = list(make_prompts(task, rows, num_fewshot, parity=settings.parity))
    if not (settings.parity and task.has_categories):  # the original has no limit there
        prompts = prompts[: settings.limit]
    length = min(settings.max_seq_len, task.max_seq_len or settings.max_seq_len)
    try:
        if task.icl_task_type != GENERATION:
            return [encode_prompt(encoder, prompt, length) for prompt in prompts]
        stop_pattern(task, parity=settings.parity)  # said here, where a run's own tasks are checked
        longest = longest_answer(encoder, task, rows)
        if longest >= length:
            raise DataError(
                f"answers have up to {longest} tokens, which leaves no room for prompts in {length}"
            )
        return [encode_for_generation(encoder, prompt, length, longest) for prompt in prompts]
    except DataError as error:
        raise DataError(f"{task.label}, {task.dataset_uri}: {error}") from error


def _choose(
    model: LanguageModel,
    encoder: Encoder,
    task: IclTask,
    prompts: Sequence[EncodedPrompt],
    settings: Settings,
    passes: Passes,
) -> Iterator[Sample]:
    scores = likelihoods(model, [prompt.requests for prompt in prompts], passes)
    for prompt, answers in zip(prompts, map(tuple, scores), strict=True):
        if task.icl_task_type == LANGUAGE_MODELING:
            yield Sample(prompt, prompt.labels[0], answers, judge_exact(answers[0]))
        else:
            outcome = judge_choice(answers, prompt.gold, parity=settings.parity)
            yield Sample(prompt, prompt.gold, answers, outcome)


def _generate(
    model: LanguageModel,
    encoder: Encoder,
    task: IclTask,
    prompts: Sequence[EncodedPrompt],
    settings: Settings,
    passes: Passes,
) -> Iterator[Sample]:
    stop = stop_pattern(task, parity=settings.parity)
    texts = continuations(
        model,
        [prompt.requests[0].ids for prompt in prompts],
        max_new_tokens=prompts[0].max_new_tokens,
        end=encoder.end,
        is_finished=lambda ids: stop is not None and bool(stop.search(encoder.text(ids))),
        passes=passes,
    )
    for prompt, ids in zip(prompts, texts, strict=True):
        outcome = judge_text(task, encoder.text(ids), prompt.labels, parity=settings.parity)
        yield Sample(prompt, list(prompt.labels), (), outcome)


def summarize(samples: Sequence[Sample]) -> TaskScore:
    """The task's score: with categories, of their unweighted mean."""
    names = sorted({sample.category for sample in samples})
    parts = [[sample for sample in samples if sample.category == name] for name in names]
    credits = [[sample.outcome.credit for sample in part] for part in parts]
    accuracy, stderr = accuracy_of(credits)
    golds = [[s.gold[0] if isinstance(s.gold, list) else s.gold for s in part] for part in parts]
    gold_shares = [gold_probability(s.scores, s.gold) for s in samples if len(s.scores) > 1]
    categories = {
        name: (sum(part) / len(part), len(part)) for name, part in zip(names, credits, strict=True)
    }
    return TaskScore(
        accuracy=accuracy,
        stderr=stderr,
        majority=majority(golds),
        chance=chance_of([len(sample.scores) for sample in samples]),
        n=len(samples),
        truncated=sum(sample.prompt.is_truncated for sample in samples),
        nonfinite=sum(not sample.outcome.is_finite for sample in samples),
        bits_per_byte=_bits_per_byte(samples),
        gold_probability=sum(gold_shares) / len(gold_shares) if gold_shares else None,
        categories=categories if names != [""] else None,
    )


def _bits_per_byte(samples: Sequence[Sample]) -> float | None:
    if not samples[0].scores:
        return None
    loss = sum(s.scores[s.gold if len(s.scores) > 1 else 0].nll for s in samples)
    return loss / (math.log(2) * sum(sample.prompt.answer_bytes for sample in samples))
