"""Keys of the evaluation: which tasks are scored, and how their scores are put together.

The names are those of the original's task and gauntlet files, so that such files are read as they
are. What a task's file must hold is checked where it is read, task by task: one that is wrong does
not keep the others from running.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from photon.config.base import Section, one_or_more


class IclTask(Section):
    """One in-context-learning task: a file of examples and how they become prompts."""

    label: str = Field(min_length=1, description="name of the benchmark")
    dataset_uri: str = Field(description="file of JSON lines, below icl_tasks_config.root_dir")
    icl_task_type: str = Field(
        description="language_modeling, multiple_choice, schema or generation_task_with_answers"
    )
    num_fewshot: list[int] = Field(min_length=1, description="one evaluation for each")
    prompt_string: str = Field(default="", description="once, at the very start")
    example_delimiter: str = Field(default="\n", description="between examples")
    continuation_delimiter: str = Field(default=" ", description="between context and answer")
    question_prelimiter: str = Field(default="", description="before every context")
    prelimiter: str = Field(default="", description="the same by its other name")
    fewshot_random_seed: int = Field(default=1234, description="of the choice of examples")
    strip_dataset: bool = Field(default=True, description="strip the rows' strings")
    has_categories: bool = Field(default=False, description="score each category, then the mean")
    cot_delimiter: str = Field(default="", description="before the answer in a generated text")
    early_stopping_criteria: list[str] = Field(
        default=[], description="strings at which a generated text is cut"
    )
    do_normalization: bool = Field(default=True, description="of generated and expected texts")
    max_seq_len: int | None = Field(default=None, ge=2, description="null: that of all tasks")

    @field_validator("num_fewshot", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value

    @field_validator("num_fewshot")
    @classmethod
    def _not_negative(cls, value: list[int]) -> list[int]:
        if any(count < 0 for count in value):
            raise ValueError("must be 0 or more")
        return value

    @model_validator(mode="after")
    def _one_prelimiter(self) -> IclTask:
        if self.prelimiter and self.question_prelimiter:
            raise ValueError("give prelimiter or question_prelimiter; they are the same")
        return self

    @property
    def keys(self) -> list[str]:
        """Names of its scores, one for each number of examples."""
        return [f"{self.label}/{count}-shot" for count in self.num_fewshot]

    @property
    def before_context(self) -> str:
        return self.prelimiter or self.question_prelimiter


class Scoring(Section):
    """The tasks of an evaluation."""

    folder: str = Field(default="dataset_cache", description="folder of the tasks' files")
    tasks: list[IclTask] | None = Field(default=None, description="the tasks; null: none")
    max_positions: int | None = Field(
        default=None, ge=2, description="longest prompt with answer; null: the model's positions"
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="first rows to score of a task, or of each of its categories; null: all, as of "
        "categories with parity",
    )
    max_batch_tokens: int | Literal["auto"] = Field(
        default="auto",
        description="tokens of one forward pass, padding counted; auto: what suits the device",
    )
    parity: bool = Field(
        default=False, description="score as the original does where ours mends a quirk of it"
    )

    _positive = field_validator("max_batch_tokens")(one_or_more)

    @model_validator(mode="after")
    def _each_once(self) -> Scoring:
        if twice := _twice(key for task in self.tasks or () for key in task.keys):
            raise ValueError(f"icl_tasks has {twice} twice; each score needs a name of its own")
        return self


def _twice(names: Iterable[str]) -> str | None:
    """The first of several names that is there again."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


class Benchmark(Section):
    """A task in a category."""

    name: str = Field(description="label of the task")
    num_fewshot: int = Field(ge=0, description="which of its evaluations")
    random_baseline: float = Field(default=0.0, ge=0, lt=1, description="accuracy by chance")

    @property
    def key(self) -> str:
        return f"{self.name}/{self.num_fewshot}-shot"


class Category(Section):
    """Benchmarks whose weighted mean is a category's score."""

    name: str = Field(description="of the composite score")
    benchmarks: list[Benchmark] = Field(min_length=1, description="their scores are averaged")


class Gauntlet(Section):
    """How accuracies become a few numbers."""

    weighting: Literal["EQUAL", "SAMPLE_SZ", "LOG_SAMPLE_SZ"] = Field(
        default="EQUAL", description="of the benchmarks of a category"
    )
    subtract_random_baseline: bool = Field(default=True, description="score above chance")
    rescale_accuracy: bool = Field(default=True, description="so that all right is 1")
    averages: dict[str, list[str]] | None = Field(
        default=None, description="means of categories; null: default_average of all"
    )
    categories: list[Category] = Field(min_length=1, description="the composites")

    @model_validator(mode="after")
    def _consistent(self) -> Gauntlet:
        if self.rescale_accuracy and not self.subtract_random_baseline:
            raise ValueError("rescale_accuracy needs subtract_random_baseline")
        if twice := _twice(category.name for category in self.categories):
            raise ValueError(f"categories has {twice} twice; each composite needs its own name")
        names = {category.name for category in self.categories}
        for average, members in (self.averages or {}).items():
            if average in names:
                raise ValueError(f"averages.{average}: is the name of a category")
            if unknown := sorted(set(members) - names):
                raise ValueError(f"averages.{average}: {unknown[0]!r} is no category")
        return self


class Composites(Section):
    """The composite scores of an evaluation."""

    destination_dir: str | None = Field(
        default=None, description="folder for results; null: below the run, or evaluation/"
    )
    gauntlet: Gauntlet | None = Field(default=None, description="null: no composite")
