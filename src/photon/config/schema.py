"""The typed configuration: every key, its type, its default and its meaning.

The public names are those of the original Photon, so that published override strings keep
working. `None` means "derive it"; `photon.config.resolve` puts the number in before a run starts.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from photon.config.base import LONGEST, NAME, Epochs, Section, filled, in_batches
from photon.config.dataset import Data
from photon.config.evaluation import Composites, Scoring
from photon.config.federation import Federation
from photon.config.llm import Inner, tokens_of_a_step
from photon.config.model import ModelConfig
from photon.config.tracking import Wandb, WandbSetup
from photon.points import TRANSPORTS, known

MOST_AT_ONCE = 1024
"""Workers and threads: with far more of them a process dies without a word."""


class Machine(Section):
    """This machine: where things are saved and what does the work."""

    runs_folder: str = Field(
        default="runs", description="folder that holds the run folders; null: runs"
    )
    workers: int | Literal["auto"] = Field(
        default="auto",
        description="worker processes; 0 trains in this process, auto takes one per CPU core "
        "or per devices_per_client GPUs",
    )
    threads: int | Literal["auto"] = Field(
        default="auto",
        description="CPU threads of each trainer; 0 is auto; recorded, since sums depend on it",
    )
    devices_per_client: int = Field(
        default=1,
        ge=1,
        description="devices that train one client together, by DDP or FSDP2 (see "
        "llm_config.fsdp_config); on a CPU, processes",
    )
    worker_timeout: float = Field(
        default=600.0,
        gt=0,
        le=LONGEST,
        description="seconds of silence after which a worker is replaced",
    )
    step_seconds: float | None = Field(
        default=None,
        gt=0,
        description="an optimizer step of a client takes at least so long, the rest is slept: to "
        "study waiting on a machine whose processor is not the subject; each node has its own",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    nodes: int = Field(
        default=1, ge=1, description="nodes that `photon server` waits for before its first round"
    )
    refresh_period: int | None = Field(
        default=None,
        ge=1,
        description="start the worker processes anew after so many rounds, between two of them; "
        "null: only when one dies",
    )
    resume_round: int | None = Field(
        default=None,
        description="go on from this round: of the run of that name, of restore_run_uuid, or with "
        "--resume; -1 is the newest that is kept, -2 the one before; null: a new run",
    )
    copied_run: str | None = Field(
        default=None,
        description="begin with a copy of another run: its name below saving_path, or its folder; "
        "what does not fit begins afresh, with a note, or is refused",
    )
    copies_clients: bool = Field(
        default=True,
        description="with restore_run_uuid, copy its clients' states too; false: they begin "
        "afresh, with a note",
    )
    centralized_run: str | None = Field(
        default=None,
        description="begin with the parameters of a centralised run: its name below saving_path, "
        "or its folder",
    )
    centralized_step: int | None = Field(
        default=None, ge=0, description="which of its checkpoints, in steps; null: the newest"
    )
    join_timeout: float = Field(
        default=600.0,
        gt=0,
        le=LONGEST,
        description="seconds that a server waits for nodes before it gives up",
    )
    transport: str = Field(
        default="inline",
        description="how payloads travel between server and nodes: in the messages (inline), "
        "through shared memory (shm, one host), or through an object store (s3)",
        examples=list(TRANSPORTS),
    )
    transport_url: str | None = Field(
        default=None, description="s3://bucket/prefix of transport=s3; only the server needs keys"
    )
    transport_hosts: list[str] | None = Field(
        default=None,
        description="of a node: the stores that the server's signed URLs may lead to, as HOST or "
        "HOST:PORT by https, or http://HOST:PORT; null: that of AWS_ENDPOINT_URL alone",
    )
    fewest_masked: int | None = Field(
        default=None,
        ge=2,
        description="of a node: its clients train only where fl.secure_aggregation masks their "
        "updates, and no sum of fewer clients is opened; null: the server decides",
    )

    @field_validator("transport")
    @classmethod
    def _known_transport(cls, value: str) -> str:
        return known("transport", value, TRANSPORTS)

    @field_validator("runs_folder", mode="before")
    @classmethod
    def _somewhere(cls, value: Any) -> Any:
        return "runs" if value is None else filled(value, "name a folder, or leave it out: runs")

    @field_validator("workers", "threads")
    @classmethod
    def _in_bounds(cls, value: int | str) -> int | str:
        if isinstance(value, int) and not 0 <= value <= MOST_AT_ONCE:
            raise ValueError(f"must be 0 to {MOST_AT_ONCE}")
        return value


class Centralized(Section):
    """Keys of `photon train --centralized`."""

    client: int | None = Field(
        default=None,
        ge=0,
        description="train on this client's data alone; null joins all clients' batches",
    )
    keeps_first: bool = Field(
        default=False, description="keep the first parameters as checkpoints/init_model.json"
    )
    keeps_last: bool = Field(
        default=False, description="keep the last parameters as checkpoints/final_model.json"
    )
    only_validates: bool = Field(
        default=False,
        description="validate the model that pretrained_model_path names, and train nothing",
    )
    validates_clients: bool = Field(
        default=False, description="validate on each client's own held-out part too"
    )


class ClientTimeouts(Section):
    connect_timeout: float = Field(
        default=60.0, gt=0, le=LONGEST, description="seconds for a connection"
    )
    read_timeout: float = Field(default=60.0, gt=0, le=LONGEST, description="seconds for a request")


class BackendKwargs(Section):
    client_config: ClientTimeouts = ClientTimeouts()


class Bucket(Section):
    """An object store that gets a copy of every checkpoint."""

    bucket: str | None = Field(
        default=None,
        description="bucket, or bucket/prefix, that mirrors the run folder; null: no copies",
    )
    attempts: int = Field(default=3, ge=1, description="attempts of each transfer")
    backend_kwargs: BackendKwargs = BackendKwargs()

    @field_validator("bucket", mode="before")
    @classmethod
    def _somewhere(cls, value: Any) -> Any:
        return filled(value, "give bucket or bucket/prefix, or null: no copies")


class Compare(Section):
    """Baselines that are trained after a federated run, for the final table."""

    centralized: bool = Field(default=False, description="train the data-parallel twin")
    centralized_learning_rate: float | None = Field(
        default=None, gt=0, description="the twin's own best learning rate; null: the shared one"
    )
    alone: bool = Field(default=False, description="train one client by itself")
    alone_learning_rate: float | None = Field(
        default=None, gt=0, description="the control's own best learning rate; null: the shared one"
    )

    @property
    def wanted(self) -> bool:
        return self.centralized or self.alone


class Config(Section):
    """One run, whole."""

    name: str | None = Field(
        alias="run_uuid",
        default=None,
        pattern=NAME,
        max_length=128,
        description="name of the run; null: by time",
    )
    seed: int = Field(default=1337, ge=0, description="address of all random numbers of the run")
    start_path: str | None = Field(
        default=None,
        description="warm start: a run folder, one of its checkpoints, or a Hugging Face folder",
    )
    embedding_path: str | None = Field(
        default=None,
        description="take the token embedding from there: a run folder, a checkpoint, or a Hugging "
        "Face folder",
    )
    clears_checkpoints: bool = Field(
        default=False, description="at the end, delete all checkpoints but the newest"
    )
    keeps_newest_only: bool = Field(
        default=False, description="keep the newest checkpoint only, all the time"
    )
    use_wandb: bool = Field(
        default=False, description="send the metrics to Weights & Biases, as wandb.setup says"
    )
    wandb: Wandb = Wandb()
    mirror: Bucket = Bucket()
    machine: Machine = Machine()
    federation: Federation = Federation()
    inner: Inner = Inner()
    data: Data = Data()
    centralized: Centralized = Centralized()
    compare: Compare = Compare()
    scoring: Scoring = Scoring()
    composites: Composites = Composites()

    @property
    def reading(self) -> tuple[Data, Inner, int]:
        """What decides which rows are read, and in which order."""
        return self.data, self.inner, self.seed

    @property
    def starts(self) -> tuple[str | None, str | None]:
        """Where the first parameters come from, and the token embedding."""
        return self.start_path, self.embedding_path

    @property
    def trained_before(self) -> tuple[str, ...]:
        """Where parameters come from that somebody has trained: paths, and names of runs."""
        given = (*self.starts, self.machine.copied_run, self.machine.centralized_run)
        return tuple(start for start in given if start is not None)

    @property
    def begins_elsewhere(self) -> bool:
        """Whether it begins with parameters that are there already, or with another vocabulary."""
        return bool(self.trained_before) or self.federation.vocabulary is not None

    def with_model(self, model: ModelConfig) -> Self:
        return self.but(inner={"model": model})

    @property
    def asked_local_steps(self) -> int | None:
        """Local steps of a round; None where the data decides: they are in epochs."""
        fl, steps = self.federation, self.federation.local_steps or self.inner.local_steps
        return None if fl.local_epochs or isinstance(steps, Epochs) else steps

    @property
    def asked_steps(self) -> int | None:
        """The same of the whole federation."""
        steps = self.asked_local_steps
        return None if steps is None else self.federation.rounds * steps

    def length(self, by_round: bool) -> int:
        """Rounds of a federation, or steps of an asynchronous one or a centralised run; 0: none, or
        not said yet.
        """
        if by_round:
            return self.total_steps if self.federation.is_async else self.federation.rounds
        return 0 if self.centralized.only_validates else self.inner.max_steps or 0

    def averaging(self) -> Federation:
        """The federation with its answer to whether the clients' inner moments travel and are
        averaged, which depends on the inner optimizer.
        """
        has_moments = self.inner.optimizer.name != "sgd"
        fl = self.federation
        is_ever_due = fl.first_moment_period is not None or fl.second_moment_period is not None
        fits = has_moments and fl.keeps_optimizer and not fl.personal_layers and is_ever_due
        fits = fits and not fl.privacy.is_on
        given = fl.averages_moments
        return fl.but(averages_moments=fits if given is None else given)

    @property
    def wandb_setup(self) -> WandbSetup | None:
        """What W&B is to be told; None if nothing."""
        logger = self.inner.loggers.wandb
        if not self.use_wandb and logger is None:
            return None
        return (logger and logger.init_kwargs) or self.wandb.setup

    @property
    def checkpoints_kept(self) -> int:
        return 1 if self.keeps_newest_only else self.inner.checkpoints_kept

    @property
    def total_steps(self) -> int:
        """Local steps of the whole federated run."""
        return self.federation.rounds * self.inner.local_steps

    @model_validator(mode="before")
    @classmethod
    def _count_tokens(cls, values: Any) -> Any:
        """Durations in tokens as batches: only the whole knows a batch, and all that count it."""
        inner = values.get("llm_config") if isinstance(values, dict) else None
        return in_batches(cls, values, tokens_of_a_step(inner))

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.federation.averages_moments and self.inner.optimizer.name == "sgd":
            raise ValueError(
                "fl.aggregate_momenta=true needs an inner optimizer with moments (any but sgd); "
                "llm_config.optimizer.name is sgd"
            )
        starts = (
            self.start_path, self.machine.copied_run,
            self.machine.centralized_run,
        )  # fmt: skip
        if sum(start is not None for start in starts) > 1:
            raise ValueError(
                "pretrained_model_path, photon.restore_run_uuid and photon.restore_cent_run_uuid "
                "each name a start; give one"
            )
        if self.federation.is_async and isinstance(self.inner.local_steps, Epochs):
            raise ValueError(
                "fl.mode=async counts in steps, and llm_config.local_steps is in epochs; give it "
                "in batches or tokens"
            )
        model = self.inner.model
        loads = model.name == "hf_causal_lm" and model.hf_weights
        if self.centralized.only_validates and not any((*starts, loads)):
            raise ValueError(
                "centralized.eval_only=true would evaluate random parameters; name a model with "
                "pretrained_model_path, or use `photon evaluate`"
            )
        if self.centralized.client is not None and (
            self.centralized.client >= self.federation.population
        ):
            raise ValueError(
                f"centralized.stream_id={self.centralized.client} names no client; there are "
                f"fl.n_total_clients={self.federation.population}, counted from 0"
            )
        return self


def config_of_model(name: str, model: ModelConfig) -> Config:
    """The configuration of a model that no run of ours has trained."""
    length = model.max_positions or Inner().row_length
    return Config().but(inner={"name": name, "row_length": length, "model": model})
