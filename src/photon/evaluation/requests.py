"""From texts to token ids: what is scored, after what.

Preamble, context and answer are tokenised apart and joined, never together: an answer has the same
tokens after every context. (Eval Gauntlet, Mosaic, llm-foundry v0.22.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from photon.config.evaluation import IclTask
from photon.data.prepare.encode import Encoder
from photon.errors import DataError
from photon.evaluation.tasks import Prompt, TaskRow, with_reasoning

ROOM_FOR_REASONING = 10
"""Tokens that a generated text may have beyond the longest answer, where it reasons first."""


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text whose end is scored.

    Attributes:
        ids: context and answer.
        num_answer: how many of them, at the end, are the answer.
    """

    ids: tuple[int, ...]
    num_answer: int


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One row, ready for the model.

    Attributes:
        line: of the row in its file.
        requests: one for each pair of its prompt; the prompt alone for generation.
        gold: index of the right request.
        answer_bytes: of the right answer's text, as it was tokenised.
        is_truncated: the beginning of a prompt was cut off.
        labels: right answers, where there is nothing to choose from.
        max_new_tokens: of an answer that is generated.
    """

    line: int
    requests: tuple[ScoredText, ...]
    gold: int
    answer_bytes: int
    is_truncated: bool
    labels: tuple[str, ...]
    max_new_tokens: int = 0


def encode_prompt(encoder: Encoder, prompt: Prompt, max_seq_len: int) -> EncodedPrompt:
    """Tokenise a row whose answers are scored; a prompt that is too long loses its beginning.

    Raises:
        DataError: an answer without tokens, one as long as the model, or an empty context.
    """
    opening = encoder.opening(prompt.preamble)
    contexts = {context: opening + encoder.ids(context) for context, _ in prompt.pairs}
    requests, truncated = [], False
    for context, answer in prompt.pairs:
        ids = encoder.ids(encoder.as_answer(answer))
        room = max_seq_len - len(ids)
        if not ids or room <= 0 or not contexts[context]:
            raise DataError(f"line {prompt.line}: {_why(ids, max_seq_len)}")
        truncated |= len(contexts[context]) > room
        requests.append(ScoredText((*contexts[context][-room:], *ids), len(ids)))
    right = encoder.as_answer(prompt.pairs[prompt.gold][1])
    return EncodedPrompt(
        prompt.line, tuple(requests), prompt.gold, len(right.encode()), truncated, prompt.labels
    )


def _why(ids: Sequence[int], max_seq_len: int) -> str:
    if not ids:
        return "an answer has no tokens"
    if len(ids) >= max_seq_len:
        return f"an answer has {len(ids)} tokens, too many for prompts of {max_seq_len}"
    return "the context has no tokens, so there is nothing to score the answer after"


def encode_for_generation(
    encoder: Encoder, prompt: Prompt, max_seq_len: int, max_new_tokens: int
) -> EncodedPrompt:
    """Tokenise a row whose answer is generated; a prompt that is too long loses its beginning.

    Raises:
        DataError: an empty context.
    """
    ((context, _),) = prompt.pairs
    ids = encoder.opening(prompt.preamble) + encoder.ids(context)
    if not ids:
        raise DataError(f"line {prompt.line}: the context has no tokens")
    room = max_seq_len - max_new_tokens
    request = ScoredText(tuple(ids[-room:]), 0)
    return EncodedPrompt(
        prompt.line, (request,), 0, 0, len(ids) > room, prompt.labels, max_new_tokens
    )


def longest_answer(encoder: Encoder, task: IclTask, rows: Sequence[TaskRow]) -> int:
    """Tokens that a generated answer may have: those of the longest right one."""
    texts = {
        with_reasoning(task, row, label)
        for row in rows
        for label in (row["answer"], *(row.fields.get("aliases") or ()))
    }
    longest = max(len(encoder.opening(text)) for text in texts)
    return max(1, longest + (ROOM_FOR_REASONING if task.cot_delimiter else 0))
