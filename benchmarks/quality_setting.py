"""The settings that `quality.py` compares in: the same tokens and steps, whoever takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compression_arms import MODELS as SIZES
from compression_arms import SPLITS, STEPS
from smoke import TINY_MODEL

ROWS = 32
"""Of all clients in a step together, so that more clients do not train on more tokens."""
SMOKE = "smoke"
CLIENTS = {SMOKE: 4}
"""Whose text is joined; of the others it is that of 8."""
MODELS: dict[str, list[str]] = {
    **SIZES,
    SMOKE: TINY_MODEL,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What arms are compared in.

    Attributes:
        clients: K. local_steps: H, from one exchange to the next. steps: of the run.
    """

    model: str = "tiny"
    split: str = "iid"
    clients: int = 8
    local_steps: int = 8
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.steps % self.local_steps:
            raise ValueError(
                f"--local-steps {self.local_steps} does not divide --steps {self.steps}: arms "
                "would train on different numbers of tokens"
            )
        if ROWS % self.clients:
            raise ValueError(f"--clients {self.clients} does not divide the {ROWS} rows of a step")

    @property
    def title(self) -> str:
        return (
            f"model {self.model}, {self.split}, {self.clients} clients, {self.local_steps} local "
            f"steps, {self.steps} in all"
        )

    def overrides(self) -> list[str]:
        """Model, data and batch; rounds are an arm's."""
        return [
            *SPLITS[self.split],
            f"fl.n_total_clients={self.clients}",
            f"llm_config.global_train_batch_size={ROWS // self.clients}",
            "llm_config.eval_subset_num_batches=-1",
            *MODELS[self.model],
        ]

    def joined(self) -> Setting:
        """Where the centralised run is: it has all text in one place and exchanges every step."""
        return replace(self, split="iid", clients=CLIENTS.get(self.model, 8), local_steps=1)

    def apart(self) -> Setting:
        """Where one client alone is: it never exchanges."""
        return replace(self, local_steps=self.steps)


NAMES = tuple(Setting.__dataclass_fields__)


def setting_of(record: Mapping[str, Any]) -> Setting:
    """That of a line of the log."""
    return Setting(**{name: record[name] for name in NAMES})
