"""Keys of `llm_config`: the model, the inner optimizer and the local round."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from photon.config.base import Batches, Section, keys_of, one_or_more
from photon.config.model import ModelConfig
from photon.config.tracking import Loggers

SCHEDULES = (
    "cosine_with_warmup",
    "constant_with_linear_cooldown_with_warmup",
    "constant_with_sqrt_cooldown_with_warmup",
    "warmup_stable_decay",
)

MOST_TOKENS = 2**28
"""Of a step, whose rows are read as one piece, some steps ahead: far beyond any use."""


class LrSchedule(Section):
    """Learning-rate schedule, counted in steps of the run (not of the round)."""

    name: Literal[
        "cosine_with_warmup",
        "constant_with_linear_cooldown_with_warmup",
        "constant_with_sqrt_cooldown_with_warmup",
        "warmup_stable_decay",
    ] = Field(default="cosine_with_warmup", description=f"one of {', '.join(SCHEDULES)}")
    t_warmup: Batches | None = Field(
        default=None, ge=0, description="warm-up; null: a tenth of t_max"
    )
    t_max: Batches | None = Field(
        default=None, ge=0, description="end of the schedule; null or 0: the run's end"
    )
    t_cooldown: Batches | None = Field(
        default=None,
        ge=0,
        description="last part, in which the constant schedules fall; null: a tenth of t_max",
    )
    alpha_f: float | None = Field(
        default=0.1, ge=0, le=1, description="final lr as a fraction of the peak; null: 0"
    )

    @field_validator("t_max")
    @classmethod
    def _open(cls, value: int | None) -> int | None:
        return value or None

    @model_validator(mode="after")
    def _has_a_floor(self) -> LrSchedule:
        if self.name == "warmup_stable_decay" and not self.alpha_f:
            raise ValueError(
                "warmup_stable_decay falls exponentially to alpha_f, which must be > 0"
            )
        return self


class Schedulers(Section):
    lr: LrSchedule = LrSchedule()


class SchedulerConfig(Section):
    schedulers: Schedulers = Schedulers()


OWN_NUMBERS: dict[str, tuple[tuple[float, float], float]] = {"adopt": ((0.9, 0.9999), 1e-6)}
"""Optimizers with defaults of their own: betas and eps, as their authors have them."""
USUAL_NUMBERS = ((0.9, 0.95), 1e-8)


class OptimizerConfig(Section):
    """The inner optimizer."""

    name: Literal["adamw", "decoupled_adamw", "adopt", "muon", "sgd"] = Field(
        default="adamw", description="inner optimizer; muon leaves embeddings and norms to adamw"
    )
    lr: float = Field(default=8e-3, gt=0, description="peak learning rate")
    betas: tuple[float, float] | None = Field(
        default=None, description="decay rates of moments; null: 0.9, 0.95 (adopt: 0.9, 0.9999)"
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        description="added to (adopt: least) root of the moment; null: 1e-8 (adopt: 1e-6)",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Muon's momentum (Nesterov)")
    weight_decay: float = Field(
        default=0.1,
        ge=0,
        description="decay of matrices: times lr (adamw, adopt, muon), times lr / peak "
        "(decoupled_adamw), or added to the gradient (sgd)",
    )

    @field_validator("betas", mode="before")
    @classmethod
    def _two_numbers(cls, value: Any) -> Any:
        if value is not None and not (isinstance(value, (list, tuple)) and len(value) == 2):
            raise ValueError("give two numbers, as in [0.9,0.95]")
        return value

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if not all(0 <= beta < 1 for beta in value or ()):
            raise ValueError(f"betas must lie in [0, 1), got {list(value or ())}")
        return value

    @property
    def decay_rates(self) -> tuple[float, float]:
        """`betas`, or the optimizer's own."""
        return self.betas or OWN_NUMBERS.get(self.name, USUAL_NUMBERS)[0]

    @property
    def epsilon(self) -> float:
        """`eps`, or the optimizer's own."""
        return self.eps or OWN_NUMBERS.get(self.name, USUAL_NUMBERS)[1]


class GradientClipping(Section):
    clipping_type: Literal["norm"] = Field(
        default="norm", description="what is held down: the norm of the whole gradient"
    )
    clipping_threshold: float = Field(
        default=1.0, gt=0, description="largest gradient norm of a step"
    )


class Algorithms(Section):
    gradient_clipping: GradientClipping | None = GradientClipping()


class FsdpConfig(Section):
    """How the devices of one job share the model; one device needs none of it."""

    sharding_strategy: Literal["FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD"] = Field(
        default="FULL_SHARD",
        description="FSDP2, resharded after each forward pass or not; NO_SHARD: DDP",
    )
    mixed_precision: Literal["PURE", "DEFAULT"] = Field(
        default="PURE",
        description="FSDP2 sums gradients in the precision of the step (PURE) or in fp32 (DEFAULT)",
    )
    activation_checkpointing: bool = Field(
        default=False, description="recompute each block in the backward pass (any device count)"
    )


def tokens_of_a_step(values: Any) -> int:
    """Tokens of one step, by plain values of `Inner` that nobody has checked yet."""
    given = values if isinstance(values, dict) else {}

    def size(key: str) -> int:
        found = given.get(key)
        if isinstance(found, int) and found > 0:
            return found
        return keys_of(Inner)[key].default  # whoever checks it says what is wrong

    return size("global_train_batch_size") * size("max_seq_len")


class Inner(Section):
    """Model, inner optimizer and the local round."""

    name: str = Field(default="llama-tiny", description="name of the preset")
    row_length: int = Field(default=128, ge=2, description="positions of one row")
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedules: SchedulerConfig = SchedulerConfig()
    algorithms: Algorithms = Algorithms()
    precision: Literal["amp_bf16", "amp_fp16", "amp_fp8", "fp32"] = Field(
        default="fp32",
        description="arithmetic of a step; weights and moments stay fp32; amp_fp8: as amp_bf16, "
        "with the products of the blocks' linear layers in eight bits (NVIDIA's Ada, Hopper and "
        "newer)",
    )
    sharding: FsdpConfig | None = Field(
        default=FsdpConfig(), description="sharding over the devices of a job; null: DDP"
    )
    compile: bool | Literal["auto", "whole"] = Field(
        default="auto",
        description="torch.compile the blocks; auto: on a GPU only; whole: the model and its loss "
        "as one graph, which takes longer to compile",
    )
    z_loss: float = Field(
        default=0.0, ge=0, description="weight of the squared log-normaliser added to the loss"
    )
    max_logits_bytes: int = Field(
        default=1 << 30,
        ge=1 << 10,
        description="fp32 logits held at once: a step makes more of them in chunks of tokens, "
        "validation in passes of fewer rows",
    )
    nonfinite_loss: Literal["stop", "skip"] = Field(
        default="stop",
        description="a step with a NaN or infinite loss or gradient: stop, or leave it out",
    )
    local_steps: Batches = Field(
        default=16, ge=1, description="optimizer steps of a client in a round"
    )
    max_steps: Batches | None = Field(
        default=None,
        ge=0,
        description="steps of a centralised run; null or 0: fl.n_rounds * local_steps, the "
        "length of a federation",
    )
    batch_rows: int = Field(
        default=4,
        ge=1,
        description="rows of one optimizer step (of a client, or of a centralised run)",
    )
    microbatch_rows: int | Literal["auto"] = Field(
        default="auto", description="rows of one forward pass; auto takes what fits into memory"
    )
    validation_rows: int = Field(
        default=32,
        ge=1,
        description="rows of one validation pass, at most; fewer where their logits exceed "
        "max_logits_bytes",
    )
    validation_batches: int = Field(
        default=-1, ge=-1, description="validation batches; -1 takes the whole validation set"
    )
    validates_first: bool = Field(
        default=False, description="validate before the first step, or the first round, too"
    )
    validation_interval: Batches | None = Field(
        default=64,
        ge=1,
        description="validate a centralised run every so many steps; null: at its end",
    )
    segment_steps: Batches = Field(
        default=64, ge=1, description="longest segment: steps that a kill -9 can lose"
    )
    checkpoints_kept: int = Field(default=2, ge=1, description="newest checkpoints kept")
    loggers: Loggers = Loggers()

    @field_validator("loggers", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("max_steps")
    @classmethod
    def _open(cls, value: int | None) -> int | None:
        return value or None

    _positive = field_validator("microbatch_rows")(one_or_more)

    @model_validator(mode="after")
    def _rows_fit_the_model(self) -> Inner:
        positions = self.model.max_positions
        if positions is not None and self.row_length > positions:
            raise ValueError(
                f"max_seq_len={self.row_length} is longer than the {positions} positions of the "
                "model (llm_config.model.max_seq_len)"
            )
        return self

    @model_validator(mode="after")
    def _a_step_fits_into_memory(self) -> Inner:
        if self.tokens_per_step > MOST_TOKENS:
            raise ValueError(
                f"global_train_batch_size={self.batch_rows} rows of max_seq_len={self.row_length} "
                f"are more than the {MOST_TOKENS} tokens of one step; lower one of them"
            )
        return self

    @property
    def tokens_per_step(self) -> int:
        """Targets of one optimizer step of one client."""
        return self.batch_rows * self.row_length

    @property
    def schedule(self) -> LrSchedule:
        return self.schedules.schedulers.lr

    @property
    def clip_norm(self) -> float | None:
        """Largest gradient norm of a step; None: as it is."""
        clipping = self.algorithms.gradient_clipping
        return None if clipping is None else clipping.clipping_threshold

    @property
    def positions(self) -> int:
        """Positions of the model."""
        return self.model.max_positions or self.row_length
