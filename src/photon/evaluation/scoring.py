"""Whether a model is right: from likelihoods and texts to credit, and from credits to a score.

The rules are those of the Eval Gauntlet, except where it lets a broken model win: there a choice
that ties shares the credit instead of the first one taking it, an answer whose likelihood is not a
number is wrong (and counted), an empty right answer matches nothing but an empty text, and strings
that end a text are taken literally. With `parity` the original's ways are kept.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from photon.config.evaluation import IclTask
from photon.errors import DataError
from photon.evaluation.likelihood import Likelihood

_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one row.

    Attributes:
        credit: 1 is right, 0 wrong; between them a share of a tie.
        prediction: index of the choice, or the text.
        is_finite: False where a likelihood was not a number.
    """

    credit: float
    prediction: int | str | bool
    is_finite: bool = True


def judge_choice(scores: Sequence[Likelihood], gold: int, *, parity: bool = False) -> Outcome:
    """Multiple choice and schema: the least mean loss per token wins."""
    means = [score.mean for score in scores]
    finite = all(map(math.isfinite, means))
    best = min(range(len(means)), key=means.__getitem__)
    if parity:
        return Outcome(float(best == gold), best, finite)
    if not finite:
        return Outcome(0.0, best, False)
    ties = [index for index, mean in enumerate(means) if mean == means[best]]
    return Outcome(1.0 / len(ties) if gold in ties else 0.0, best)


def judge_exact(score: Likelihood) -> Outcome:
    """Language modelling: every token of the answer must be the likeliest."""
    finite = math.isfinite(score.nll)
    return Outcome(float(score.is_greedy and finite), score.is_greedy, finite)


def judge_text(task: IclTask, text: str, labels: Sequence[str], *, parity: bool = False) -> Outcome:
    """Generation: the text, cut and normalised, must begin with one of the right answers."""
    answer = _clean(task, final_answer(task, text, parity=parity))
    wanted = [_clean(task, label) for label in labels]
    if parity:
        return Outcome(float(any(answer.startswith(label) for label in wanted)), answer)
    is_right = any(answer.startswith(label) if label else not answer for label in wanted)
    return Outcome(float(is_right), answer)


def stop_pattern(task: IclTask, *, parity: bool) -> re.Pattern[str] | None:
    """Matches where a generated text ends; None if it ends by itself only.

    Raises:
        DataError: with `parity`, a string that is no regular expression.
    """
    stops = [stop if parity else re.escape(stop) for stop in task.early_stopping_criteria]
    try:
        return re.compile("|".join(stops)) if stops else None
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(
            f"early_stopping_criteria {task.early_stopping_criteria!r:.80} are no regular "
            f"expressions ({error}), which icl_tasks_config.parity=true takes them for"
        ) from error


def final_answer(task: IclTask, text: str, *, parity: bool) -> str:
    """A generated text up to its first stop, after its last `cot_delimiter`."""
    pattern = stop_pattern(task, parity=parity)
    if pattern is not None and (match := pattern.search(text)):
        text = text[: match.start()]
    return text.split(task.cot_delimiter)[-1] if task.cot_delimiter else text


def _clean(task: IclTask, text: str) -> str:
    return normalize(text) if task.do_normalization else text.strip()


def normalize(text: str) -> str:
    """Lower case without articles, punctuation and superfluous spaces."""
    text = text.replace("_", " ").lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """Result of one task.

    Attributes:
        accuracy: mean credit; of categories their unweighted mean.
        stderr: standard error of the accuracy.
        majority: accuracy of the best constant answer.
        chance: of a guess among the choices; 0 where there are none.
        bits_per_byte: loss on the right answers / (ln 2 x their bytes); None for generation.
        gold_probability: mean probability of the right choice among the choices, each by its
            mean loss per token; None without choices.
        n, truncated, nonfinite: rows; those whose prompt lost its beginning; those without a
            likelihood that is a number.
        categories: accuracy and rows of each.
    """

    accuracy: float
    stderr: float
    majority: float
    chance: float
    n: int
    truncated: int
    nonfinite: int
    bits_per_byte: float | None = None
    gold_probability: float | None = None
    categories: dict[str, tuple[float, int]] | None = None


def mean_and_error(credits: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error from the sample's deviation (0 for a single value)."""
    n = len(credits)
    mean = sum(credits) / n
    if n == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((credit - mean) ** 2 for credit in credits) / (n - 1) / n)


def accuracy_of(parts: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Unweighted mean over categories, and its standard error."""
    pairs = [mean_and_error(part) for part in parts]
    mean = sum(mean for mean, _ in pairs) / len(pairs)
    return mean, math.sqrt(sum(error**2 for _, error in pairs)) / len(pairs)


def majority(parts: Sequence[Sequence[Any]]) -> float:
    """Accuracy of the one answer that is right most often, over categories unweighted."""
    shares: Counter[Any] = Counter()
    for part in parts:
        for answer, count in Counter(part).items():
            shares[answer] += count / len(part)  # type: ignore[assignment]
    return max(shares.values()) / len(parts)


def chance_of(num_choices: Sequence[int]) -> float:
    """Expected accuracy of a guess; 0 where nothing is to choose from."""
    return sum(1 / count if count > 1 else 0.0 for count in num_choices) / len(num_choices)


def gold_probability(scores: Sequence[Likelihood], gold: int) -> float:
    """Softmax over the choices of minus their mean losses; NaN where one is not a number."""
    means = [score.mean for score in scores]
    if not all(map(math.isfinite, means)):
        return math.nan
    least = min(means)
    weights = [math.exp(least - mean) for mean in means]
    return weights[gold] / sum(weights)
