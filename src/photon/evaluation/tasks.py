"""A task's file: its rows, which of them become examples in the prompt, and the texts.

The rules are those of the Eval Gauntlet (Mosaic, llm-foundry v0.22): examples come from the same
file as the row that is asked, drawn by CPython's `random.Random`, so that the prompts are the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photon.config.evaluation import IclTask
from photon.data.tokenization import require_text
from photon.errors import DataError

LANGUAGE_MODELING = "language_modeling"
MULTIPLE_CHOICE = "multiple_choice"
SCHEMA = "schema"
GENERATION = "generation_task_with_answers"
KINDS = (LANGUAGE_MODELING, MULTIPLE_CHOICE, SCHEMA, GENERATION)

_TEXTS = {
    LANGUAGE_MODELING: ("context", "continuation"),
    MULTIPLE_CHOICE: ("query",),
    SCHEMA: ("continuation",),
    GENERATION: ("context", "answer"),
}
_OPTIONS = {MULTIPLE_CHOICE: "choices", SCHEMA: "context_options"}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A line of a task's file, parsed; lines count from 1."""

    line: int
    fields: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The texts of one row.

    Attributes:
        preamble: what comes before the row: the prompt string and the examples.
        pairs: (context, answer) to score: of every choice or option, else of the one answer.
        gold: index of the right pair.
        labels: right answers, where there is nothing to choose from.
    """

    line: int
    preamble: str
    pairs: tuple[tuple[str, str], ...]
    gold: int = 0
    labels: tuple[str, ...] = ()


def find_file(root: Path, uri: str) -> Path:
    """Where a task's file is: the original's data lies in `eval/local_data` of the root.

    Raises:
        DataError: nowhere.
    """
    places = [Path(uri), root / uri, root / uri.removeprefix("eval/local_data/")]
    for path in places[1:] if not places[0].is_absolute() else places:
        if path.is_file():
            return path
    raise DataError(f"{places[1]}: no such task file; set icl_tasks_config.root_dir")


def read_rows(path: Path, task: IclTask) -> list[TaskRow]:
    """The rows of a task's file, checked for what the task's type needs.

    Raises:
        DataError: an unknown task type, no rows, or a malformed row (named by its line).
    """
    if task.icl_task_type not in KINDS:
        raise DataError(
            f"{task.label}: unknown icl_task_type {task.icl_task_type!r}; there are "
            f"{', '.join(KINDS)}"
        )
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_row(f"{path}:{number}", number, line, task))
    if not rows:
        raise DataError(f"{path}: has no rows")
    _check_reasoning(path, rows)
    return rows


def _row(where: str, number: int, line: str, task: IclTask) -> TaskRow:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is no JSON ({error})") from error
    require_text(json.dumps(fields, ensure_ascii=False), where)
    if not isinstance(fields, dict):
        raise DataError(f"{where}: is no JSON object")
    kind = task.icl_task_type
    texts = _TEXTS[kind] + (("category",) if task.has_categories else ())
    _require(fields, texts, lambda v: isinstance(v, str), "a text", where)
    if (options := _OPTIONS.get(kind)) is not None:
        _require(fields, (options,), lambda v: _is_texts(v) and bool(v), "texts", where)
        count = len(fields[options])
        fits = f"a number from 0 to {count - 1}"
        _require(fields, ("gold",), lambda v: type(v) is int and 0 <= v < count, fits, where)
    if fields.get("aliases") is not None:
        _require(fields, ("aliases",), _is_texts, "a list of texts", where)
    if kind == GENERATION and fields.get("chain_of_thought") is not None:
        _require(fields, ("chain_of_thought",), lambda v: isinstance(v, str), "a text", where)
    if task.strip_dataset:
        fields = {k: v.strip() if isinstance(v, str) else v for k, v in fields.items()}
    return TaskRow(number, fields)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _require(
    fields: Mapping[str, Any],
    names: Sequence[str],
    is_right: Callable[[Any], bool],
    what: str,
    where: str,
) -> None:
    for name in names:
        if name not in fields:
            raise DataError(f"{where}: has no {name!r}")
        if not is_right(fields[name]):
            raise DataError(f"{where}: {name!r} must be {what}, got {fields[name]!r:.60}")


def _check_reasoning(path: Path, rows: Sequence[TaskRow]) -> None:
    reasons = [isinstance(row.fields.get("chain_of_thought"), str) for row in rows]
    if any(reasons) and not all(reasons):
        line = rows[reasons.index(False)].line
        raise DataError(f"{path}:{line}: has no 'chain_of_thought', which other rows have")


def by_category(task: IclTask, rows: Sequence[TaskRow]) -> dict[str, list[TaskRow]]:
    """The rows of each category, by name; all under the empty name without categories."""
    if not task.has_categories:
        return {"": list(rows)}
    parts: dict[str, list[TaskRow]] = {row["category"]: [] for row in rows}
    for row in rows:
        parts[row["category"]].append(row)
    return dict(sorted(parts.items()))


def draw_examples(num_rows: int, count: int, seed: int) -> Iterator[list[int]]:
    """For every row in turn, the rows that are its examples.

    One generator goes through all rows, so what a row gets depends on those before it. The order is
    that in which CPython iterates a set of these numbers: the original's prompts have it.
    """
    draw = random.Random(seed)
    count = min(num_rows - 1, count)
    for index in range(num_rows):
        if count <= 0:
            yield []
            continue
        chosen = set(draw.sample(range(num_rows), count))
        if index in chosen:
            chosen.remove(index)
            other = index
            while other == index or other in chosen:
                other = draw.choice(range(num_rows))
            chosen.add(other)
        yield list(chosen)


def make_prompts(
    task: IclTask, rows: Sequence[TaskRow], num_fewshot: int, *, parity: bool = False
) -> Iterator[Prompt]:
    """The texts of every row of a category.

    Args:
        parity: in a schema with a prelimiter, put it before the delimiter as the original does.
    """
    build = _schema if task.icl_task_type == SCHEMA else _ordinary
    examples = draw_examples(len(rows), num_fewshot, task.fewshot_random_seed)
    for row, chosen in zip(rows, examples, strict=True):
        yield build(task, row, [rows[index] for index in chosen], parity)


def full_answer(task: IclTask, row: TaskRow) -> str:
    """The answer as an example shows it: with its reasoning where the file has that."""
    kind = task.icl_task_type
    if kind == MULTIPLE_CHOICE:
        return row["choices"][row["gold"]]
    if kind != GENERATION:
        return row["continuation"]
    return with_reasoning(task, row, row["answer"])


def with_reasoning(task: IclTask, row: TaskRow, answer: str) -> str:
    reasoning = row.fields.get("chain_of_thought")
    return answer if reasoning is None else reasoning + task.cot_delimiter + answer


def _ordinary(task: IclTask, row: TaskRow, examples: Sequence[TaskRow], parity: bool) -> Prompt:
    source = "query" if task.icl_task_type == MULTIPLE_CHOICE else "context"
    text, end = task.prompt_string, task.continuation_delimiter
    for example in examples:
        text += _led(task, text, example[source]) + end + full_answer(task, example)
    context = _led(task, text, row[source]) + end
    if task.strip_dataset:
        context = context.rstrip()
    if task.icl_task_type == MULTIPLE_CHOICE:
        pairs = tuple((context, choice) for choice in row["choices"])
        return Prompt(row.line, text, pairs, row["gold"])
    if task.icl_task_type == GENERATION:
        labels = (row["answer"], *(row.fields.get("aliases") or ()))
        return Prompt(row.line, text, ((context, row["answer"]),), labels=labels)
    answer = row["continuation"]
    return Prompt(row.line, text, ((context, answer),), labels=(answer,))


def _schema(task: IclTask, row: TaskRow, examples: Sequence[TaskRow], parity: bool) -> Prompt:
    text = task.prompt_string
    for example in examples:
        option = example["context_options"][example["gold"]]
        text += _led(task, text, option, parity)
        text += task.continuation_delimiter + example["continuation"]
    end = task.continuation_delimiter.rstrip() if text else ""
    pairs = tuple(
        (_led(task, text, option, parity) + end, row["continuation"])
        for option in row["context_options"]
    )
    return Prompt(row.line, text, pairs, row["gold"])


def _led(task: IclTask, before: str, text: str, parity: bool = False) -> str:
    """A context with its prelimiter, set apart from what comes before."""
    delimiter = task.example_delimiter if before else ""
    prelimiter = task.before_context
    return (prelimiter + delimiter if parity else delimiter + prelimiter) + text
