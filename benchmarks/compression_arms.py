"""What `compression.py` compares: ways of sending, and the settings in which they are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REFERENCE = "bf16"
"""The arm that the others are compared with, in their own setting."""
STEPS = 384
"""Of the quickstart; a run of longer rounds has fewer of them."""

KEPT = ["fl.aggregate_momenta=false"]
RARE = ["fl.first_moment_period=3", "fl.second_moment_period=6"]
NO_FEEDBACK = ["fl.compression.residual_decay=0"]


def ways(up: str, down: str, moments: str | None = None) -> list[str]:
    """Codecs of pseudo-gradients, of what is sent back, and of averaged moments."""
    chosen = [f"fl.compression.upload={up}", f"fl.compression.download={down}"]
    return chosen if moments is None else [*chosen, f"fl.compression.moments={moments}"]


ARMS: dict[str, list[str]] = {
    REFERENCE: ["fl.compression=bf16"],
    "bf16, moments kept": ["fl.compression=bf16", *KEPT],
    "int4 both ways, moments bf16": ways("int4", "int4", "bf16"),
    "int4 both ways, moments int2": ways("int4", "int4", "int2"),
    "int4 both ways, moments int2, every 3rd and 6th round": [*ways("int4", "int4", "int2"), *RARE],
    "int4 both ways, moments kept": [*ways("int4", "int4"), *KEPT],
    "int2 up, int4 down, moments kept": [*ways("int2", "int4"), *KEPT],
    "int2 both ways, moments kept": [*ways("int2", "int2"), *KEPT],
    "int2 both ways, moments kept, no feedback": [*ways("int2", "int2"), *KEPT, *NO_FEEDBACK],
    "int1 up, int4 down, moments kept": [*ways("int1", "int4"), *KEPT],
    "int1 up, int4 down, moments kept, no feedback": [*ways("int1", "int4"), *KEPT, *NO_FEEDBACK],
    "topk 512 up, int4 down, moments kept": [*ways("topk:512/4096", "int4"), *KEPT],
    "topk 64 up, int4 down, moments kept": [*ways("topk:64/4096", "int4"), *KEPT],
    "topk 64 up, int4 down, moments kept, no feedback": [
        *ways("topk:64/4096", "int4"),
        *KEPT,
        *NO_FEEDBACK,
    ],
}
"""Name -> overrides that say how it sends."""

MODELS: dict[str, list[str]] = {
    "tiny": [],
    "four times": [
        "llm_config.model.d_model=192",
        "llm_config.model.n_heads=6",
        "llm_config.model.n_layers=4",
        "llm_config.model.ffn_hidden_size=512",
    ],
}
SPLITS = {"iid": [], "source": ["dataset=embedded-by-source"]}
LOCAL_STEPS = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class Setting:
    """What arms are compared in.

    Attributes:
        local_steps: H; steps of a round.
        rounds: of the run; None: as many as `STEPS` make.
    """

    model: str = "tiny"
    split: str = "iid"
    local_steps: int = 16
    rounds: int | None = None

    @property
    def length(self) -> int:
        """Rounds of the run."""
        return self.rounds or max(1, STEPS // self.local_steps)

    @property
    def title(self) -> str:
        return f"model {self.model}, {self.split}, {self.length} rounds of {self.local_steps} steps"

    def overrides(self) -> list[str]:
        return [
            *SPLITS[self.split],
            *MODELS[self.model],
            f"llm_config.local_steps={self.local_steps}",
            f"fl.n_rounds={self.length}",
        ]


def overrides_of(arm: str, setting: Setting, seed: int) -> list[str]:
    """Everything beyond the recipe that a run is given, but its folder.

    A seed sets the initial weights and the order of every client's rows.
    """
    return [
        *setting.overrides(),
        f"seed={seed}",
        f"dataset.train.shuffle_seed={9175 + seed}",  # 9176 is the default
        "compare.centralized=false",
        "compare.alone=false",
        "fl.eval_period=null",
        "llm_config.eval_subset_num_batches=-1",
        *ARMS[arm],
    ]


def chosen(patterns: Sequence[str]) -> list[str]:
    """Arms whose names hold one of these, and always the reference; all of them without any.

    Raises:
        ValueError: a text that no arm's name holds.
    """
    for text in patterns:
        if not any(text in arm for arm in ARMS):
            raise ValueError(f"no arm is named {text!r}; there are: {'; '.join(ARMS)}")
    wanted = patterns or [""]
    return [arm for arm in ARMS if arm == REFERENCE or any(text in arm for text in wanted)]
