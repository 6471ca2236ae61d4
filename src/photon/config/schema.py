"""The typed configuration: every key, its type, its default and its meaning.

The public names are those of the original Photon, so that published override strings keep
working. `None` means "derive it"; `photon.config.resolve` puts the number in before a run starts.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from photon.config.base import Section
from photon.config.dataset import DatasetConfig
from photon.config.llm import LlmConfig


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
    n_nodes: int = Field(
        default=1, ge=1, description="nodes that `photon server` waits for before its first round"
    )
    join_timeout: float = Field(
        default=600.0, gt=0, description="seconds that a server waits for nodes before it gives up"
    )
    transport: Literal["inline", "shm", "s3"] = Field(
        default="inline",
        description="how payloads travel between server and nodes: in the messages, through shared "
        "memory (one host), or through an object store",
    )
    transport_url: str | None = Field(
        default=None, description="s3://bucket/prefix of transport=s3; only the server needs keys"
    )

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
    aggregate_momenta: bool | None = Field(
        default=None,
        description="average the clients' inner moments too, and send them back; null: unless "
        "reset_optimizer, or an inner optimizer without moments",
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
    oversample: int = Field(
        default=0,
        ge=0,
        description="clients asked beyond the cohort; a round of remote nodes closes with the "
        "first so many as the cohort has",
    )
    fold_updates: bool = Field(
        default=False,
        description="a node sends one weighted mean of its clients' updates, in fp32: fewer bytes "
        "between sites, no numbers of single clients",
    )
    round_timeout: float = Field(
        default=86_400.0, gt=0, description="seconds after which a round closes without stragglers"
    )
    round_timeout_min: float = Field(
        default=60.0, ge=0, description="seconds that a round waits for stragglers at the least"
    )
    straggler_factor: float = Field(
        default=5.0,
        gt=0,
        description="deviations (MAD) beyond the median of the measured durations after which a "
        "client is late, once fl.quorum updates are here",
    )
    failed_rounds: Literal["stop", "retry", "skip"] = Field(
        default="stop", description="what follows a round with fewer updates than fl.quorum"
    )
    round_attempts: int = Field(
        default=3, ge=1, description="tries of one round before the run stops, if it is retried"
    )
    max_norm_ratio: float | None = Field(
        default=20.0,
        gt=1,
        description="an update is refused if its norm is more than so many times the median of "
        "those accepted lately; null: never",
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
    pretrained_model_path: str | None = Field(
        default=None,
        description="warm start: a run folder, one of its checkpoints, or a Hugging Face folder",
    )
    photon: PhotonConfig = PhotonConfig()
    fl: FederationConfig = FederationConfig()
    llm_config: LlmConfig = LlmConfig()
    dataset: DatasetConfig = DatasetConfig()
    centralized: CentralizedConfig = CentralizedConfig()
    compare: CompareConfig = CompareConfig()

    @property
    def averages_moments(self) -> bool:
        """Whether the clients' inner moments travel and are averaged."""
        given = self.fl.aggregate_momenta
        has_moments = self.llm_config.optimizer.name != "sgd"
        return (has_moments and not self.fl.reset_optimizer) if given is None else given

    @property
    def total_steps(self) -> int:
        """Local steps of the whole federated run."""
        return self.fl.n_rounds * self.llm_config.local_steps

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.fl.aggregate_momenta and self.llm_config.optimizer.name == "sgd":
            raise ValueError(
                "fl.aggregate_momenta=true needs an inner optimizer with moments (any but sgd); "
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
