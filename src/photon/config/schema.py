"""The typed configuration: every key, its type, its default and its meaning.

The public names are those of the original Photon, so that published override strings keep
working. `None` means "derive it"; `photon.config.resolve` puts the number in before a run starts.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def parse_batches(value: Any) -> Any:
    """Turn a duration such as `40960ba` (batches) into an int; numbers pass through.

    Raises:
        ValueError: the unit is not `ba`.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*)\s*([a-z]*)\s*", value)
    if match is None or match[2] not in ("", "ba"):
        raise ValueError(f"durations are counted in batches, for example 16ba; got {value!r}")
    return int(match[1].replace("_", ""))


Batches = Annotated[int, BeforeValidator(parse_batches)]


class Section(BaseModel):
    """Base of all sections: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PhotonConfig(Section):
    """This machine: where things are saved and what does the work."""

    saving_path: str = Field(default="runs", description="folder that holds the run folders")
    workers: int | Literal["auto"] = Field(
        default="auto",
        description="worker processes; 0 trains in this process, auto takes one per CPU core "
        "(one process if a GPU trains)",
    )
    threads: int | Literal["auto"] = Field(
        default="auto", description="CPU threads of each trainer; recorded, since sums depend on it"
    )
    worker_timeout: float = Field(
        default=600.0, gt=0, description="seconds of silence after which a worker is replaced"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")

    @field_validator("workers", "threads")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more")
        return value


class StrategyKwargs(Section):
    """Arguments of the outer optimizer; which of them count depends on `fl.strategy_name`."""

    server_learning_rate: float | None = Field(
        default=None, gt=0, description="outer lr of the SGD family; default 1.0 (FedAvg) or 0.7"
    )
    server_momentum: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="outer momentum of FEDAVGM, FEDMOM and NESTEROV; default 0.7",
    )
    eta: float | None = Field(default=None, gt=0, description="outer lr of the adaptive family")
    beta_1: float | None = Field(default=None, ge=0, lt=1, description="first-moment decay")
    beta_2: float | None = Field(default=None, ge=0, lt=1, description="second-moment decay")
    tau: float | None = Field(
        default=None, gt=0, description="added to the root of the second moment"
    )


STRATEGIES: dict[str, dict[str, float]] = {
    "FEDAVG": {"server_learning_rate": 1.0},
    "FEDAVGM": {"server_learning_rate": 0.7, "server_momentum": 0.7},
    "NESTEROV": {"server_learning_rate": 0.7, "server_momentum": 0.7},
    "FEDMOM": {"server_learning_rate": 0.7, "server_momentum": 0.7},
    "FEDADAGRAD": {"eta": 0.01, "beta_1": 0.0, "tau": 1e-3},
    "FEDADAM": {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "FEDYOGI": {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
}
"""Outer optimizers and their arguments with defaults (Reddi et al. 2020 for the adaptive ones)."""

_ALIASES = {"NESTOROV": "NESTEROV"}


class FederationConfig(Section):
    """The federation: who takes part, for how long, and the server's outer optimizer."""

    n_total_clients: int = Field(default=8, ge=1, description="population: clients that exist")
    n_clients_per_round: int | None = Field(
        default=None, ge=1, description="cohort: clients of one round; null takes all"
    )
    n_rounds: int = Field(default=24, ge=1, description="rounds of the run")
    strategy_name: str = Field(
        default="NESTEROV", description=f"outer optimizer: {', '.join(STRATEGIES)}, any case"
    )
    strategy_kwargs: StrategyKwargs = StrategyKwargs()
    aggregate_momenta: bool = Field(
        default=True, description="average the clients' AdamW moments too, and send them back"
    )
    reset_optimizer: bool = Field(
        default=False, description="start every round with a fresh inner optimizer"
    )
    compression: Literal["bf16", "fp32"] = Field(
        default="bf16", description="number format in which pseudo-gradients and moments travel"
    )
    quorum: int | None = Field(
        default=None,
        ge=1,
        description="fewest accepted updates that close a round; null: the cohort",
    )
    eval_period: int | None = Field(
        default=4,
        ge=1,
        description="validate every so many rounds; null validates after the last only",
    )

    @field_validator("strategy_name", mode="before")
    @classmethod
    def _known_strategy(cls, value: Any) -> str:
        name = str(value).upper()
        name = _ALIASES.get(name, name)
        if name not in STRATEGIES:
            raise ValueError(f"unknown strategy {value!r}; known: {', '.join(STRATEGIES)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> FederationConfig:
        given = self.strategy_kwargs.model_dump(exclude_none=True)
        known = STRATEGIES[self.strategy_name]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(
                f"strategy_kwargs.{unknown[0]} is no argument of {self.strategy_name}; "
                f"it takes {', '.join(known)}"
            )
        if self.cohort_size > self.n_total_clients:
            raise ValueError(
                f"n_clients_per_round={self.cohort_size} is more than "
                f"n_total_clients={self.n_total_clients}"
            )
        if self.quorum is not None and self.quorum > self.cohort_size:
            raise ValueError(f"quorum={self.quorum} is more than the cohort of {self.cohort_size}")
        if self.aggregate_momenta and self.reset_optimizer:
            raise ValueError(
                "reset_optimizer=true throws away the moments that aggregate_momenta=true averages;"
                " set one of them to false"
            )
        return self

    @property
    def cohort_size(self) -> int:
        return self.n_clients_per_round or self.n_total_clients

    @property
    def outer_arguments(self) -> dict[str, float]:
        """Arguments of the outer optimizer, defaults filled in."""
        given = self.strategy_kwargs.model_dump(exclude_none=True)
        return {**STRATEGIES[self.strategy_name], **given}


class ModelConfig(Section):
    """A decoder-only Transformer of the Llama family."""

    name: Literal["llama"] = Field(default="llama", description="model family")
    d_model: int = Field(default=96, ge=1, description="width")
    n_heads: int = Field(default=4, ge=1, description="attention heads")
    n_layers: int = Field(default=3, ge=1, description="blocks")
    ffn_hidden_size: int = Field(default=256, ge=1, description="width of the SwiGLU layer")
    vocab_size: int = Field(default=2048, ge=2, description="tokens in the embedding")
    rope_theta: float = Field(default=10000.0, gt=0, description="base of the rotary positions")
    norm_eps: float = Field(default=1e-5, gt=0, description="epsilon of RMSNorm")
    init_std: float = Field(
        default=0.02, gt=0, description="standard deviation of the initial weights"
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} must be an even multiple of n_heads={self.n_heads}"
            )
        return self


class LrSchedule(Section):
    """Learning-rate schedule, counted in steps of the run (not of the round)."""

    name: Literal["cosine_with_warmup"] = "cosine_with_warmup"
    t_warmup: Batches | None = Field(
        default=None, ge=0, description="warm-up; null: a tenth of t_max"
    )
    t_max: Batches | None = Field(
        default=None, ge=1, description="end of the cosine; null: the run's end"
    )
    alpha_f: float = Field(
        default=0.1, ge=0, le=1, description="final lr as a fraction of the peak"
    )


class Schedulers(Section):
    lr: LrSchedule = LrSchedule()


class SchedulerConfig(Section):
    schedulers: Schedulers = Schedulers()


class OptimizerConfig(Section):
    """The inner optimizer."""

    name: Literal["adamw", "muon", "sgd"] = Field(
        default="adamw", description="inner optimizer; muon leaves embeddings and norms to adamw"
    )
    lr: float = Field(default=8e-3, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's decay rates")
    eps: float = Field(default=1e-8, gt=0, description="AdamW's epsilon")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Muon's momentum (Nesterov)")
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled decay of matrices")

    @field_validator("betas")
    @classmethod
    def _betas_in_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"betas must lie in [0, 1), got {list(value)}")
        return value


class GradientClipping(Section):
    clipping_type: Literal["norm"] = "norm"
    clipping_threshold: float = Field(
        default=1.0, gt=0, description="largest gradient norm of a step"
    )


class Algorithms(Section):
    gradient_clipping: GradientClipping | None = GradientClipping()


class LlmConfig(Section):
    """Model, inner optimizer and the local round."""

    name: str = Field(default="llama-tiny", description="name of the preset")
    max_seq_len: int = Field(default=128, ge=2, description="positions of one row")
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    algorithms: Algorithms = Algorithms()
    local_steps: Batches = Field(
        default=16, ge=1, description="optimizer steps of a client in a round"
    )
    max_duration: Batches | None = Field(
        default=None, ge=1, description="steps of a centralised run; null: n_rounds * local_steps"
    )
    global_train_batch_size: int = Field(
        default=4,
        ge=1,
        description="rows of one optimizer step (of a client, or of a centralised run)",
    )
    device_train_microbatch_size: int | Literal["auto"] = Field(
        default="auto", description="rows of one forward pass; auto takes the whole batch"
    )
    device_eval_batch_size: int = Field(default=32, ge=1, description="rows of one validation pass")
    eval_subset_num_batches: int = Field(
        default=-1, ge=-1, description="validation batches; -1 takes the whole validation set"
    )
    eval_interval: Batches | None = Field(
        default=64,
        ge=1,
        description="validate a centralised run every so many steps; null: at its end",
    )
    save_interval: Batches = Field(
        default=64, ge=1, description="longest segment: steps that a kill -9 can lose"
    )
    save_num_checkpoints_to_keep: int = Field(
        default=2, ge=1, description="newest checkpoints kept"
    )


class EmbeddedCorpus(Section):
    """The default corpus: the source of the running Python's own standard library."""

    vocab_size: int = Field(default=2048, ge=257, description="size of the tokenizer trained on it")
    partition: Literal["iid", "source"] = Field(
        default="iid",
        description="documents at random, or whole packages (heterogeneous) to a client",
    )
    validation_fraction: float = Field(
        default=0.05, gt=0, lt=0.5, description="documents of the common validation set"
    )
    max_bytes: int = Field(default=16_000_000, ge=1, description="most text taken from the library")
    seed: int = Field(default=9176, description="address of the split's random numbers")


class SplitConfig(Section):
    root_local: str | None = Field(
        default=None,
        description="prepared data folder; null: the embedded corpus, made on first use",
    )
    shuffle: bool = Field(default=True, description="visit the rows in an addressed random order")
    shuffle_seed: int = Field(default=9176, description="address of that order")


class DatasetConfig(Section):
    name: str = Field(default="embedded", description="name of the preset")
    embedded: EmbeddedCorpus = EmbeddedCorpus()
    train: SplitConfig = SplitConfig()


class CentralizedConfig(Section):
    """Keys of `photon train --centralized`."""

    stream_id: int | None = Field(
        default=None,
        ge=0,
        description="train on this client's data alone; null joins all clients' batches",
    )


class CompareConfig(Section):
    """Baselines that are trained after a federated run, for the final table."""

    centralized: bool = Field(default=False, description="train the data-parallel twin")
    alone: bool = Field(default=False, description="train one client by itself")
    alone_learning_rate: float | None = Field(
        default=None, gt=0, description="the control's own best learning rate; null: the shared one"
    )


class Config(Section):
    """One run, whole."""

    run_uuid: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run; null: by time",
    )
    seed: int = Field(default=1337, ge=0, description="address of all random numbers of the run")
    photon: PhotonConfig = PhotonConfig()
    fl: FederationConfig = FederationConfig()
    llm_config: LlmConfig = LlmConfig()
    dataset: DatasetConfig = DatasetConfig()
    centralized: CentralizedConfig = CentralizedConfig()
    compare: CompareConfig = CompareConfig()

    @property
    def total_steps(self) -> int:
        """Local steps of the whole federated run."""
        return self.fl.n_rounds * self.llm_config.local_steps

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.fl.aggregate_momenta and self.llm_config.optimizer.name == "sgd":
            raise ValueError(
                "fl.aggregate_momenta=true needs an inner optimizer with moments (adamw, muon); "
                "llm_config.optimizer.name is sgd"
            )
        if self.centralized.stream_id is not None and (
            self.centralized.stream_id >= self.fl.n_total_clients
        ):
            raise ValueError(
                f"centralized.stream_id={self.centralized.stream_id} names no client; there are "
                f"fl.n_total_clients={self.fl.n_total_clients}, counted from 0"
            )
        return self
