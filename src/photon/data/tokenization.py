"""How text became the tokens of a model: facts that are found once and kept with data and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from photon.data.tokenizer import SEPARATORS, separator_id
from photon.errors import DataError

KEY = "tokenization"
"""Entry of a data set's manifest, of run.json, and of an export's photon.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenization:
    """What tells one tokenisation by a tokenizer from another by the same.

    Attributes:
        end: id of the token behind each document.
        begin: ids of what comes before each document, usually nothing.
        specials_are_text: text that spells a special token stays text, as `prepare` has it.
    """

    end: int
    begin: tuple[int, ...] = ()
    specials_are_text: bool = True

    @property
    def start(self) -> int:
        """The token after which a document's first one comes."""
        return self.begin[-1] if self.begin else self.end

    def as_json(self) -> dict[str, Any]:
        specials = "text" if self.specials_are_text else "ids"
        return {"end": self.end, "begin": list(self.begin), "special_tokens": specials}

    @classmethod
    def from_json(cls, facts: Any, where: Path) -> Tokenization:
        """Raises: DataError: they are not what `as_json` writes."""
        try:
            begin, specials = tuple(facts["begin"]), facts["special_tokens"]
            found = cls(end=facts["end"], begin=begin, specials_are_text=specials == "text")
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(f"{where}: its {KEY} is unreadable ({error!r})") from error
        if not all(type(number) is int for number in (found.end, *begin)):
            raise DataError(f"{where}: its {KEY} names tokens that are no numbers")
        return found

    def require_known(self, tokenizer: Tokenizer, where: Path) -> Tokenization:
        """Refuse facts of another tokenizer.

        Raises:
            DataError: the tokenizer has no such tokens.
        """
        for number in (self.end, *self.begin):
            if not has_token(tokenizer, number):
                raise DataError(
                    f"{where}: documents are set apart by token {number}, which its tokenizer.json "
                    "has not; put the tokenizer there that the text was tokenised with"
                )
        return self


def resolved(
    tokenizer: Tokenizer, bos_text: str | None = None, eos_text: str | None = None
) -> Tokenization:
    """The tokenisation that `photon prepare` was asked for.

    Args:
        bos_text: token to put before each document; nothing if it is the separator itself.
        eos_text: the separator; the tokenizer's own if not given.

    Raises:
        DataError: the tokenizer has no such token.
    """
    end = separator_id(tokenizer, eos_text)
    begin = end if bos_text is None else separator_id(tokenizer, bos_text)
    return Tokenization(end=end, begin=() if begin == end else (begin,))


def of_data(manifest: Mapping[str, Any], tokenizer: Tokenizer, root: Path) -> Tokenization:
    """The tokenisation of a prepared data set, also of one whose manifest does not name it yet.

    Raises:
        DataError: it cannot be told.
    """
    if KEY in manifest:
        return Tokenization.from_json(manifest[KEY], root).require_known(tokenizer, root)
    asked = manifest.get("settings", {})
    try:
        return resolved(tokenizer, asked.get("bos_text"), asked.get("eos_text"))
    except DataError as error:
        raise DataError(f"{root}: {error}; prepare the data again") from error


def of_occurrence(tokenizer: Tokenizer, counts: Mapping[int, int]) -> Tokenization:
    """The tokenisation of text that others tokenised: documents end with the commonest separator.

    Args:
        counts: how often a token id occurs.

    Raises:
        DataError: none occurs, and the tokenizer has no separator.
    """
    known = [number for name in SEPARATORS if (number := tokenizer.token_to_id(name)) is not None]
    added = tokenizer.get_added_tokens_decoder()
    special = [number for number in sorted(added) if added[number].special]
    for candidates in (known, special):
        end = max(candidates, key=lambda number: counts.get(number, 0), default=None)
        if end is not None and counts.get(end, 0):
            return Tokenization(end=end)
    return resolved(tokenizer)


def of_foreign(tokenizer: Tokenizer, end: int) -> Tokenization:
    """The tokenisation of a model of `transformers`: what its tokenizer does to a prompt."""
    plain = bare(tokenizer)
    inside = plain.encode("a", add_special_tokens=False).ids
    whole = plain.encode("a", add_special_tokens=True).ids
    places = range(len(whole) - len(inside) + 1)
    at = next((i for i in places if whole[i : i + len(inside)] == inside), 0)
    return Tokenization(end=end, begin=tuple(whole[:at]), specials_are_text=False)


def has_token(tokenizer: Tokenizer, number: int) -> bool:
    """Whether there is such a token; `tokenizers` itself takes numbers of 32 bits only."""
    return 0 <= number < 1 << 32 and tokenizer.id_to_token(number) is not None


def bare(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts texts nor fills them up, whatever its file asks for."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def require_text(text: str, where: str) -> str:
    """Refuse half a surrogate pair: no file of UTF-8 holds it, and no tokenizer takes it.

    Raises:
        DataError: naming the place, and what stands there.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = text[error.start]
        raise DataError(
            f"{where}: character {error.start + 1:,} is {found!a}, which is no text (half a "
            "surrogate pair, or bytes that are no UTF-8)"
        ) from None
    return text
