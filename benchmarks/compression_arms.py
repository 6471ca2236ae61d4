"""What `compression.py` compares: ways of sending, and the settings in which they are run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEPS = 384
"""Of the quickstart; a run of longer rounds has fewer of them."""

RECIPES: dict[str, list[str]] = {
    "averaged": [
        "fl.aggregate_momenta=true",
        "llm_config.optimizer.betas=[0.9,0.95]",
        "llm_config.optimizer.momentum=0.9",
    ],
    "kept": [
        "fl.aggregate_momenta=false",
        "llm_config.optimizer.betas=[0.8,0.999]",
        "llm_config.optimizer.momentum=0.8",
    ],
}
"""What becomes of inner moments. A client's own ones want a longer memory of squares, since it
rarely sees most tokens, and a shorter one of gradients, which are of an older base."""
RECIPES["smoothed"] = [*RECIPES["kept"], "fl.ema_decay=0.95"]
"""The result is an average of the last rounds, in which what a round loses cancels."""
BF16 = ["fl.compression=bf16"]
NO_FEEDBACK = ["fl.compression.residual_decay=0"]
QUARTERS = ["fl.fragments=4"]
"""A quarter of the parameters in each round, so that each waits four rounds."""
RARELY = ["fl.first_moment_period=3", "fl.second_moment_period=6"]


def ways(up: str, down: str, *more: str) -> list[str]:
    """Codecs of pseudo-gradients, and of what is sent back."""
    return [f"fl.compression.upload={up}", f"fl.compression.download={down}", *more]


SENT: dict[str, dict[str, list[str]]] = {
    "averaged": {
        "bf16": BF16,
        "int4 / int4, moments bf16": ways("int4", "int4", "fl.compression.moments=bf16"),
        "int4 / int4, moments int4": ways("int4", "int4", "fl.compression.moments=int4"),
        "int4 / int4, moments int2": ways("int4", "int4", "fl.compression.moments=int2"),
        "int4 / int4, moments int2, rarely": ways(
            "int4", "int4", "fl.compression.moments=int2", *RARELY
        ),
    },
    "kept": {
        "bf16": BF16,
        "int8 / int8": ways("int8", "int8"),
        "int4 / int4": ways("int4", "int4"),
        "uniform:50/15 / uniform:50/15": ways("uniform:50/15", "uniform:50/15"),
        "int2 / int4": ways("int2", "int4"),
        "int2 / int2": ways("int2", "int2"),
        "uniform:100/7 / uniform:75/11": ways("uniform:100/7", "uniform:75/11"),
        "uniform:106/7 / uniform:74/11": ways("uniform:106/7", "uniform:74/11"),
        "uniform:107/7 / uniform:75/11": ways("uniform:107/7", "uniform:75/11"),
        "uniform:110/7 / uniform:80/11": ways("uniform:110/7", "uniform:80/11"),
        "uniform:150/5 / uniform:100/7": ways("uniform:150/5", "uniform:100/7"),
        "uniform:150/5 / uniform:100/7, no feedback": ways(
            "uniform:150/5", "uniform:100/7", *NO_FEEDBACK
        ),
        "uniform:250/3 / uniform:200/3": ways("uniform:250/3", "uniform:200/3"),
        "int1 / int4": ways("int1", "int4"),
        "int1 / int4, no feedback": ways("int1", "int4", *NO_FEEDBACK),
        "topk:512/4096 / int4": ways("topk:512/4096", "int4"),
        "topk:512/4096 / topk:512/4096": ways("topk:512/4096", "topk:512/4096"),
        "topk:300/4096/1 / topk:480/4096/1": ways("topk:300/4096/1", "topk:480/4096/1"),
        "topk:64/4096 / int4": ways("topk:64/4096", "int4"),
        "topk:64/4096 / int4, no feedback": ways("topk:64/4096", "int4", *NO_FEEDBACK),
        "fragments 4, bf16": [*BF16, *QUARTERS],
        "fragments 4, 107/7 / 75/11": ways("uniform:107/7", "uniform:75/11", *QUARTERS),
        "fragments 4, 115/7 / 82/11": ways("uniform:115/7", "uniform:82/11", *QUARTERS),
    },
    "smoothed": {
        "bf16": BF16,
        "fragments 4, 115/7 / 82/11": ways("uniform:115/7", "uniform:82/11", *QUARTERS),
    },
}
"""Recipe -> what goes up / what comes down -> overrides."""
ARMS: dict[str, list[str]] = {
    f"{recipe}: {sent}": [*RECIPES[recipe], *codecs]
    for recipe, arms in SENT.items()
    for sent, codecs in arms.items()
}
"""Name -> overrides that say how it sends, and with which recipe."""
AVERAGED = "averaged: bf16"
"""The best that is known without regard to bytes."""


def reference_of(arm: str) -> str:
    """The same recipe, sent in bf16."""
    return f"{arm.partition(':')[0]}: bf16"


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


def seeded(seed: int) -> list[str]:
    """A run with its own initial weights and order of the rows; and no baselines beside it."""
    return [
        f"seed={seed}",
        f"dataset.train.shuffle_seed={9175 + seed}",  # 9176 is the default
        "compare.centralized=false",
        "compare.alone=false",
    ]


def of_seed(seed: int) -> list[str]:
    """The same for its last validation alone."""
    return [*seeded(seed), "fl.eval_period=null", "llm_config.eval_subset_num_batches=-1"]


def overrides_of(arm: str, setting: Setting, seed: int) -> list[str]:
    """Everything beyond the recipe that a run is given, but its folder."""
    return [*setting.overrides(), *of_seed(seed), *ARMS[arm]]


def named(text: str, arms: Iterable[str]) -> list[str]:
    """Those of the arms whose names hold a text.

    Raises:
        ValueError: none does.
    """
    arms = list(arms)
    if not (found := [arm for arm in arms if text in arm]):
        raise ValueError(f"no arm is named {text!r}; there are: {'; '.join(arms)}")
    return found


def chosen(patterns: Sequence[str]) -> list[str]:
    """Arms whose names hold one of these, and what they are compared with; all without any.

    Raises:
        ValueError: a text that no arm's name holds.
    """
    wanted = [arm for text in patterns or [""] for arm in named(text, ARMS)]
    kept = {AVERAGED, *wanted, *map(reference_of, wanted)}
    return [arm for arm in ARMS if arm in kept]
