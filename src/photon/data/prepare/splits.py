"""The named splits: which split of the source they read, and how many samples they take of it."""

from __future__ import annotations

from dataclasses import dataclass

from photon.errors import ConfigError

SAMPLE_TOKENS = 2048
"""Targets of one sample, the unit in which the sizes below are counted."""


@dataclass(frozen=True, slots=True)
class Split:
    """A named part of a data set.

    Attributes:
        name: as the user writes it.
        part: split of the source that it reads: `train` or `validation`.
        samples: most samples of `SAMPLE_TOKENS` tokens; None takes all.
    """

    name: str
    part: str
    samples: int | None

    def most_rows(self, sequence_length: int) -> int | None:
        """The same limit in rows of another length."""
        if self.samples is None:
            return None
        return max(1, self.samples * SAMPLE_TOKENS // sequence_length)


SPLITS = {
    split.name: split
    for split in (
        Split("train", "train", None),
        Split("train_small", "train", 100_000),
        Split("validation", "validation", None),
        Split("val_small", "validation", 10_000),
        Split("val_xsmall", "validation", 3_000),
        Split("val_xxsmall", "validation", 100),
    )
}


def choose_splits(names: list[str]) -> tuple[Split, Split]:
    """The training and the validation split among some names; a missing one is taken whole.

    Raises:
        ConfigError: an unknown name, or two splits for the same part.
    """
    chosen: dict[str, Split] = {}
    for name in names:
        if name not in SPLITS:
            raise ConfigError(
                f"dataset.prepare.splits: no split {name!r}; there are {', '.join(SPLITS)}"
            )
        split = SPLITS[name]
        if split.part in chosen:
            raise ConfigError(
                f"dataset.prepare.splits: {chosen[split.part].name} and {name} both make the "
                f"{split.part} part; name one"
            )
        chosen[split.part] = split
    return chosen.get("train", SPLITS["train"]), chosen.get("validation", SPLITS["validation"])
