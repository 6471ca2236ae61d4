"""Our scorer as a model of lm-eval (EleutherAI's evaluation harness, extra `eval`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]

from photon.data.prepare.encode import Encoder
from photon.errors import ConfigError, DataError
from photon.evaluation.generation import continuations
from photon.evaluation.likelihood import Passes, likelihoods
from photon.evaluation.requests import ScoredText
from photon.evaluation.text import windows
from photon.model.build import LanguageModel

DEFAULT_NEW_TOKENS = 256
"""As lm-eval's own models have it where a task says nothing."""


class PhotonLM(TemplateLM):
    """Answers lm-eval's requests; tokens and truncation are those of its own `HFLM`.

    Args:
        max_length: longest text, at most the model's positions.
    """

    backend = "causal"

    def __init__(
        self, model: LanguageModel, encoder: Encoder, passes: Passes, max_length: int
    ) -> None:
        super().__init__()
        self.model, self.encoder, self.passes = model, encoder, passes
        self.max_length = max_length

    @property
    def eot_token_id(self) -> int:
        return self.encoder.end

    @property
    def prefix_token_id(self) -> int:
        return self.encoder.facts.start

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        if add_special_tokens is False:
            return self.encoder.ids(string)
        return self.encoder.opening(string)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Requests are (texts, context ids, continuation ids); those of a context are a group.

        Raises:
            DataError: a continuation before which the model has no position left.
        """
        groups: dict[tuple[int, ...], list[tuple[int, ScoredText]]] = {}
        for number, (_pair, context, answer) in enumerate(requests):
            if len(answer) > self.max_length:
                raise DataError(
                    f"a continuation has {len(answer)} tokens, but texts have at most "
                    f"{self.max_length}"
                )
            ids = tuple([*context, *answer][-(self.max_length + 1) :])
            groups.setdefault(tuple(context), []).append((number, ScoredText(ids, len(answer))))
        scored = likelihoods(
            self.model,
            [[request for _, request in group] for group in groups.values()],
            self.passes,
        )
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for group, scores in zip(groups.values(), scored, strict=True):
            for (number, _request), score in zip(group, scores, strict=True):
                answers[number] = (-score.nll, score.is_greedy)
        for (pair, _c, _a), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False):
        """Log-likelihoods of whole texts."""
        texts = [self.encoder.ids(request.args[0]) for request in requests]
        pieces = [
            windows(ids, self.prefix_token_id, self.max_length) if ids else [] for ids in texts
        ]
        groups = [[piece] for of_text in pieces for piece in of_text]
        scores = iter(likelihoods(self.model, groups, self.passes))
        return [-sum(next(scores)[0].nll for _ in of_text) for of_text in pieces]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations; requests with the same settings go together.

        Raises:
            ConfigError: a task that wants samples.
        """
        texts = [""] * len(requests)
        parts: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            parts.setdefault(_settings(request.args[1]), []).append(number)
        for (limit, until), numbers in parts.items():
            prompts = [requests[number].args[0] for number in numbers]
            made = self._generate(prompts, limit, until)
            for number, text in zip(numbers, made, strict=True):
                texts[number] = text
        return texts

    def _generate(self, prompts: Sequence[str], limit: int, until: tuple[str, ...]) -> list[str]:
        room = self.max_length - limit
        if room < 1:
            raise ConfigError(
                f"a task wants {limit} new tokens, but texts have at most {self.max_length}"
            )
        made = continuations(
            self.model,
            [self.tok_encode(prompt)[-room:] or [self.prefix_token_id] for prompt in prompts],
            max_new_tokens=limit,
            end=self.encoder.end,
            is_finished=lambda ids: any(stop in self._text(ids) for stop in until),
            passes=self.passes,
        )
        texts = []
        for text in map(self._text, made):
            for stop in until:
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def _text(self, ids: Sequence[int]) -> str:
        return self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True)


def _settings(given: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """New tokens and stop strings of a request."""
    if given.get("do_sample") and given.get("temperature", 1.0) > 0:
        raise ConfigError("a task wants sampled texts; only greedy ones are made here")
    until = given.get("until") or ()
    until = (until,) if isinstance(until, str) else until
    limit = given.get("max_gen_toks", given.get("max_new_tokens", DEFAULT_NEW_TOKENS))
    return int(limit), tuple(filter(None, until))
